//! Real nodes in a simulated network.

#[cfg(test)]
mod adversary;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod evil;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod timing;
#[cfg(test)]
mod transfer;
