//! Integration tests: the binary as a user runs it.

#[cfg(test)]
mod it {
    mod bonds;
    mod capture;
    mod cli;
    mod clock;
    mod deploy;
    mod disk;
    mod doctor;
    mod e2e;
    mod faults;
    mod kills;
    mod lab;
    mod logs;
    mod neighbour;
    mod open;
    mod operate;
    mod outage;
    mod paid;
    mod paths;
    mod processes;
    mod reach;
    mod replay;
    mod repo;
    mod socks;
    mod target;
    mod wallet;
}
