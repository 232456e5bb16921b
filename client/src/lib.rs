//! Room `client`.

pub mod socks;
