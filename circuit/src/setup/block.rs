//! A relay's block of a setup.

use crate::aead::Suite;
use crate::error::Malformed;
use crate::keys::{DhPublic, RelayId};

/// The size of a block.
pub(super) const BLOCK: usize = 192;
const MINUTE_AT: usize = 140;

const TERMINAL: u8 = 1;
const EXIT: u8 = 2;

/// The part that a relay plays in a circuit, as far as its price goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Carries cells on.
    #[default]
    Forward = 0,
    /// Serves as an exit.
    Exit = 1,
}

/// The conditions of a hop; all zero on a free network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The price class.
    pub class: u16,
    /// The part that is paid for.
    pub role: Role,
    /// What the relay is paid, in units of 03-payments.
    pub rate_in: u32,
    /// What the relay pays on.
    pub rate_out: u32,
}

/// A relay's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whether the circuit ends here.
    pub terminal: bool,
    /// Whether the relay is asked to serve as an exit.
    pub exit: bool,
    /// The AEAD of the layer.
    pub suite: Suite,
    /// When the relay ends the circuit, unix seconds.
    pub expiry: u32,
    /// The next relay; zero at the end.
    pub next_id: RelayId,
    /// The conditions.
    pub terms: Terms,
    /// When the setup was made, unix time / 60.
    pub minute: u32,
    /// The next hop's X; zero at the end.
    pub next_key: DhPublic,
    /// The next hop's MAC; zero at the end.
    pub next_mac: [u8; 16],
}

pub(super) fn minute(block: &[u8; BLOCK]) -> u32 {
    let mut r = wire::Reader::new(block);
    r.take(MINUTE_AT, "minute").and_then(|_| r.u32("minute")).unwrap_or(0)
}

impl Block {
    pub(super) fn write(&self) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        let flags = if self.terminal { TERMINAL } else { 0 } | if self.exit { EXIT } else { 0 };
        let fields: [&[u8]; 13] = [
            &[1, flags, self.suite.code(), 0],
            &self.expiry.to_be_bytes(),
            &self.next_id.0,
            &[0; 20],
            &[0; 64],
            &self.terms.class.to_be_bytes(),
            &[self.terms.role as u8, 0],
            &self.terms.rate_in.to_be_bytes(),
            &self.terms.rate_out.to_be_bytes(),
            &[0; 4],
            &self.minute.to_be_bytes(),
            &self.next_key.0,
            &self.next_mac,
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// circuit.setup.5: what no honest client writes is malformed.
    pub(super) fn read(bytes: &[u8; BLOCK]) -> Result<Self, Malformed> {
        let mut r = wire::Reader::new(bytes);
        if r.u8("block version")? != 1 {
            return Err(Malformed("block version"));
        }
        let flags = r.u8("block flags")?;
        if flags & !(TERMINAL | EXIT) != 0 {
            return Err(Malformed("block flags"));
        }
        let suite = Suite::from_code(r.u8("block suite")?).ok_or(Malformed("block suite"))?;
        r.zeros(1, "block zero")?;
        let expiry = r.u32("expiry")?;
        let next_id = RelayId(*r.array("next id")?);
        r.zeros(20, "next address")?;
        r.zeros(64, "admission")?;
        let class = r.u16("class")?;
        let role = match r.u8("role")? {
            0 => Role::Forward,
            1 => Role::Exit,
            _ => return Err(Malformed("role")),
        };
        r.zeros(1, "terms zero")?;
        let terms = Terms { class, role, rate_in: r.u32("rate_in")?, rate_out: r.u32("rate_out")? };
        r.zeros(4, "terms zero")?;
        let minute = r.u32("minute")?;
        let next_key = DhPublic(*r.array("next key")?);
        let next_mac = *r.array("next mac")?;
        r.finish("block")?;
        let terminal = flags & TERMINAL != 0;
        let ends = next_id.0 == [0; 32] && next_key.0 == [0; 32] && next_mac == [0; 16];
        if terminal != ends || (flags & EXIT != 0 && !terminal) {
            return Err(Malformed("terminal block"));
        }
        Ok(Self {
            terminal,
            exit: flags & EXIT != 0,
            suite,
            expiry,
            next_id,
            terms,
            minute,
            next_key,
            next_mac,
        })
    }
}
