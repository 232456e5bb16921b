//! Payer and payee against each other, and each against liars.

mod lies;
mod limits;
mod overdraft;
mod pair;
mod random;
mod statistics;
mod vectors;
