//! Real nodes in a simulated network.

#[cfg(test)]
mod adversary;
#[cfg(test)]
mod change;
#[cfg(test)]
mod cheat;
#[cfg(test)]
mod cheats;
#[cfg(test)]
mod deluge;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod evil;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod memory;
mod paid;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod rogue;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod timing;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod wire;
