//! Changes to real messages, as the fuzzer's bytes say.

use crate::input::Input;

/// Changes `bytes` in place until the input ends or says so; whether they are different now.
pub(crate) fn edit(input: &mut Input<'_>, bytes: &mut [u8]) -> bool {
    let before = bytes.to_vec();
    loop {
        let operation = input.u8() % 8;
        if operation == 0 || input.is_empty() {
            break;
        }
        let at = input.below(bytes.len());
        let part = bytes.get_mut(at..).unwrap_or_default();
        match operation {
            1 | 2 => part.iter_mut().take(1).for_each(|byte| *byte ^= 1 << (input.u8() % 8)),
            3 => part.iter_mut().zip(input.chunk()).for_each(|(to, from)| *to = *from),
            4 => part.iter_mut().zip(input.u64().to_be_bytes()).for_each(|(to, from)| *to = from),
            5 => part.iter_mut().take(usize::from(input.u8())).for_each(|byte| *byte = 0),
            6 => part.iter_mut().take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            _ => {
                let from = before.get(input.below(before.len())..).unwrap_or_default();
                part.iter_mut().zip(from).take(usize::from(input.u8())).for_each(|(to, from)| *to = *from);
            }
        }
    }
    *bytes != *before
}

/// Changes text in place: pieces are cut out, and others put in.
pub(crate) fn edit_text(input: &mut Input<'_>, text: &mut Vec<u8>) {
    while !input.is_empty() {
        let at = usize::from(input.u16()) % (text.len() + 1);
        let end = text.len().min(at + usize::from(input.u8()));
        text.splice(at..end, input.chunk().iter().copied());
    }
}
