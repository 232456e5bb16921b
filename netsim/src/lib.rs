//! Room `netsim`.
