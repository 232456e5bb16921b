//! Why there is no path, and what to do.

use directory::view::Share;
use payments::amount::Rate;

use super::market::per_gib;
use crate::guards::Lost;
use crate::wishes::{Place, RuledOut};

/// Why there is no path; says what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// Too few relays for so many hops.
    #[error("{}", too_few(*known, *usable, *hops))]
    TooFewRelays {
        /// In the view.
        known: usize,
        /// With a valid descriptor and an onion key.
        usable: usize,
        /// Asked for.
        hops: usize,
    },
    /// Too few owners for so many hops, on a paid network.
    #[error(
        "the {usable} relays that can be used now are of {owners} owners, and a path of {hops} hops needs {hops} of them: lower the number of hops, or get a newer network file"
    )]
    TooFewOwners {
        /// Relays that can be used.
        usable: usize,
        /// Their owners whose prices are on the scale.
        owners: usize,
        /// Asked for.
        hops: usize,
    },
    /// No exit for this port, or on a paid network too few of them for a price that tells nobody apart.
    #[error("{}", no_exit(*usable, *port, *exits, *owners, *needed))]
    NoExit {
        /// With a valid descriptor and an onion key.
        usable: usize,
        /// Asked for; 0 stands for any.
        port: u16,
        /// Relays that are exits for the port.
        exits: usize,
        /// Their owners, on a paid network.
        owners: usize,
        /// The owners that a price class needs; 0 on a free network.
        needed: usize,
    },
    /// Guards are lost, and no new one may be drawn yet.
    #[error("{}", lost(*_0))]
    GuardsLost(Lost),
    /// So few of the registered relays are known that no new guard is drawn among them.
    #[error(
        "only {} of {} registered relays are known, and no new entry is chosen among so few, since somebody may be keeping the others from \
         this computer: more are asked for, and in some minutes it may go on with these; if it does not, add other addresses to \
         `bootstrap` in the network file, or, if you know that the others do not run, set few_relays = true in [paths]",
        _0.known, _0.of
    )]
    FewKnown(Share),
    /// The maximum price is too low.
    #[error(
        "a path of {hops} hops{} costs at least {} wei per GiB, and the maximum price of {} wei per GiB rules out {ruled_out} of the relays that may be its entry: raise the maximum price, or lower the number of hops",
        for_port(*port), per_gib(*least), per_gib(*max)
    )]
    TooDear {
        /// Relays that could be the entry at a higher price.
        ruled_out: usize,
        /// What the cheapest of them costs per cell, the whole path included.
        least: Rate,
        /// What a cell may cost.
        max: Rate,
        /// Asked for.
        hops: usize,
        /// Asked for; 0 stands for any.
        port: u16,
    },
    /// The wishes leave no relay for a place of the path.
    // path.wish.2
    #[error("{}", wishes(*place, *of, *port, ruled_out, *dear, *alike))]
    Wishes {
        /// The place that nobody is left for.
        place: Place,
        /// Relays that could have the place without wishes.
        of: usize,
        /// Asked for; 0 stands for any.
        port: u16,
        /// How many of them each wish rules out.
        ruled_out: RuledOut,
        /// How many ask more than the path pays.
        dear: usize,
        /// How many have an owner, a subnet, an autonomous system or a country of the entry's.
        alike: usize,
    },
    /// The relays have too many owners, subnets, autonomous systems or countries in common.
    #[error("{}", too_alike(*left, *hops, *owners, *subnets, *systems, *countries, ruled_out))]
    TooAlike {
        /// Relays that the wishes leave.
        left: usize,
        /// Asked for.
        hops: usize,
        /// Their owners; 0 on a free network.
        owners: usize,
        /// Their subnets.
        subnets: usize,
        /// Their autonomous systems, where any is known.
        systems: Option<usize>,
        /// Their countries, where they are to be distinct.
        countries: Option<usize>,
        /// How many others the wishes rule out.
        ruled_out: RuledOut,
    },
}

impl NoPath {
    /// The port without which there might be a path.
    pub const fn port(&self) -> Option<u16> {
        match *self {
            Self::NoExit { port, .. } | Self::TooDear { port, .. } | Self::Wishes { port, .. }
                if port != 0 =>
            {
                Some(port)
            }
            _ => None,
        }
    }
}

fn too_few(known: usize, usable: usize, hops: usize) -> String {
    if usable == 0 && known > 0 {
        return format!(
            "none of {known} known relays can be used at the time that this computer's clock shows: correct the clock if it is wrong, or get a newer network file"
        );
    }
    if known == 0 {
        return format!("no relay is known yet, and a path of {hops} hops needs {hops}");
    }
    format!(
        "{usable} of {known} known relays can be used now, and a path of {hops} hops needs {hops}: lower the number of hops, get a newer network file, or correct this computer's clock"
    )
}

fn no_exit(usable: usize, port: u16, exits: usize, owners: usize, needed: usize) -> String {
    let port = for_port(port);
    if exits == 0 || needed == 0 {
        format!("none of {usable} usable relays is an exit{port}")
    } else if owners < needed {
        format!(
            "{exits} of {usable} usable relays are exits{port}, of {owners} owners, and a price that {needed} owners accept is needed: get a newer network file, or one that asks for fewer exit operators"
        )
    } else {
        format!(
            "{exits} of {usable} usable relays are exits{port}, but no others than those of the entry's owner or subnet at a price of the scale: get a newer network file"
        )
    }
}

fn wishes(place: Place, of: usize, port: u16, ruled_out: &RuledOut, dear: usize, alike: usize) -> String {
    let mut parts = vec![ruled_out.to_text(place)];
    if dear > 0 {
        parts.push(format!("{dear} by their price"));
    }
    if alike > 0 {
        parts.push(format!("{alike} by being of the entry's owner, subnet, autonomous system or country"));
    }
    let few = if place == Place::Middle { "too few of the" } else { "none of the" };
    let (place, port) = (place.as_str(), for_port(port));
    format!(
        "{few} {of} relays that may be the {place}{port} are left: {} are ruled out; give up one of these wishes",
        parts.join(", ")
    )
}

fn too_alike(
    left: usize,
    hops: usize,
    owners: usize,
    subnets: usize,
    systems: Option<usize>,
    countries: Option<usize>,
    ruled_out: &RuledOut,
) -> String {
    let mut kinds = vec![];
    if owners > 0 {
        kinds.push(format!("{owners} owners"));
    }
    kinds.push(format!("{subnets} subnets"));
    kinds.extend(systems.map(|systems| format!("{systems} autonomous systems")));
    kinds.extend(countries.map(|countries| format!("{countries} countries")));
    let wishes = match ruled_out.sum() {
        0 => String::new(),
        _ => format!(" ({} are ruled out)", ruled_out.to_text(Place::Middle)),
    };
    let remedy = if countries.is_some() { ", or do not ask for distinct countries" } else { "" };
    format!(
        "the {left} relays that are left{wishes} are of {}, and no {hops} of them from the entry to an exit are all distinct: lower the number of hops{remedy}",
        kinds.join(", ")
    )
}

fn lost(Lost { hidden, given_up, waits }: Lost) -> String {
    if waits {
        return format!(
            "of {hidden} guards of this client, which are registered, it is not known how they are reached: they are waited for a \
             minute before another one is drawn"
        );
    }
    format!(
        "{hidden} guards of this client are registered, and no peer tells how they are reached, and {given_up} others were given up \
         after many failures: somebody may be hiding or blocking them, so that others are drawn; use another network or other \
         bootstrap addresses, or remove the file `guards` in the folder of the setting `state`: then new ones are drawn"
    )
}

pub(super) fn for_port(port: u16) -> String {
    if port == 0 { String::new() } else { format!(" for port {port}") }
}
