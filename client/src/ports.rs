//! The ports that streams went to of late: circuits to them are kept ready.

use std::time::{Duration, Instant};

/// How long a port is remembered.
const REMEMBERED: Duration = Duration::from_hours(1);
/// The most ports that are.
const MOST: usize = 8;

/// Ports, the last one used at the end.
// path.circuit.1
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentPorts(Vec<(u16, Instant)>);

impl RecentPorts {
    /// A stream goes to a port.
    pub(crate) fn note(&mut self, now: Instant, port: u16) {
        self.forget(port);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push((port, now));
    }

    /// Nothing is kept ready for a port.
    pub(crate) fn forget(&mut self, port: u16) {
        self.0.retain(|(known, _)| *known != port);
    }

    /// The ports of the last hour, the last one used first.
    pub(crate) fn recent(&self, now: Instant) -> impl Iterator<Item = u16> {
        let recent = move |at: &Instant| now.saturating_duration_since(*at) < REMEMBERED;
        self.0.iter().rev().filter(move |(_, at)| recent(at)).map(|(port, _)| *port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // path.circuit.1
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_few_ports_are_remembered_for_an_hour() {
        let (now, mut ports) = (Instant::now(), RecentPorts::default());
        for port in 1..=9 {
            ports.note(now, port);
        }
        ports.note(now + Duration::from_mins(1), 5);
        assert_eq!(ports.recent(now).collect::<Vec<_>>(), [5, 9, 8, 7, 6, 4, 3, 2]);
        assert_eq!(ports.recent(now + REMEMBERED).collect::<Vec<_>>(), [5]);
        ports.forget(5);
        assert_eq!(ports.recent(now + REMEMBERED).count(), 0);
    }
}
