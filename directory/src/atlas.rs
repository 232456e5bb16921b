//! What a table of addresses says of one.

use core::fmt::Debug;
use core::num::NonZeroU32;
use std::net::IpAddr;

/// The number of an autonomous system: a network under one hand.
pub type System = NonZeroU32;

/// A table of addresses: a good guess, not a proof.
pub trait Atlas: Debug + Send + Sync {
    /// ISO 3166-1 alpha-2 code of the country that an address is assigned to, upper case; `None` if it is not known.
    fn country(&self, ip: IpAddr) -> Option<[u8; 2]>;

    /// The autonomous system that an address is in; `None` if it is not known.
    fn system(&self, ip: IpAddr) -> Option<System>;
}

/// A table that knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Blank;

impl Atlas for Blank {
    fn country(&self, _: IpAddr) -> Option<[u8; 2]> {
        None
    }

    fn system(&self, _: IpAddr) -> Option<System> {
        None
    }
}
