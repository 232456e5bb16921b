//! Integration tests: the binary as a user runs it.

#[cfg(test)]
mod it {
    mod cli;
    mod e2e;
    mod processes;
    mod repo;
    mod socks;
    mod target;
}
