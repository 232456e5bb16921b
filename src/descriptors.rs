//! The limit of descriptors: every connection of an application or to a destination takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a daemon needs beside its connections: sockets, files, the runtime's own.
const OWN: u64 = 64;

/// Who needs descriptors, and how many at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A relay that connects nowhere.
    Relay,
    /// An exit, with as many connections to destinations as it takes.
    Exit,
    /// A client, with as many connections of applications as it takes.
    Client,
    /// A demonstration: exits, client and web site in one process.
    Demo,
}

impl Need {
    /// How many.
    pub(crate) const fn count(self) -> u64 {
        OWN + match self {
            Self::Relay => 0,
            Self::Exit => 16_384,
            Self::Client => 4_096,
            Self::Demo => 3 * 4_096,
        }
    }
}

/// Raises the limit of this process as far as it may go, and says so if that is too little.
pub(crate) fn raise(need: Need) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("the limit of open files stays as it was: {error}");
            current
        }
    };
    if let Some(few) = raised.filter(|most| *most < need.count()) {
        tracing::warn!(
            "only {few} files and connections can be open at once, and up to {} may be needed; \
             raise the hard limit (LimitNOFILE of the service, or ulimit -Hn)",
            need.count()
        );
    }
}
