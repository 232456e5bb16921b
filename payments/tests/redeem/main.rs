//! Redemption on the embedded chain: whatever fails and whenever, every win is paid once, to the wei.
#![cfg(feature = "io")]

#[cfg(test)]
mod payment;
#[cfg(test)]
mod treasury;
#[cfg(test)]
mod trouble;
#[cfg(test)]
mod world;
