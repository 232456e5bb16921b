//! Amounts as people write them on the command line and in files: a number never stands alone where ether could be meant.

use directory::chain::{Wei, parse_amount};

const FORM: &str = "write it like 0.05ether, 5gwei or 1000wei";

/// An exact amount with its unit; 0 needs none.
pub(crate) fn amount(text: &str) -> Result<Wei, String> {
    if text.starts_with('-') {
        return Err(format!("an amount cannot be below 0; {FORM}"));
    }
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if number && parse_amount(text) != Some(Wei::ZERO) {
        return Err(format!("name the unit: {text}ether, {text}gwei or {text}wei"));
    }
    parse_amount(text).ok_or_else(|| {
        format!("an exact amount below 2^96 wei (79 billion ether) is wanted, with its unit; {FORM}")
    })
}

/// The same, and more than 0.
pub(crate) fn above_zero(text: &str) -> Result<Wei, String> {
    match amount(text) {
        Ok(Wei::ZERO) => Err(format!("an amount above 0 is wanted; {FORM}")),
        other => other,
    }
}

/// What to say of a command line that has a negative number, which is none that any option takes; `arguments` is the whole of it.
pub(crate) fn negative(arguments: &[String]) -> Option<String> {
    let is_negative = |text: &&String| {
        text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let found = arguments.iter().find(is_negative)?;
    Some(format!("`{found}` is below 0, and no amount and no number here can be; an amount: {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_a_unit_unless_it_is_nothing() {
        assert_eq!(amount("1 ether"), Ok(Wei(10_u128.pow(18))));
        assert_eq!((amount("0"), amount("0wei")), (Ok(Wei::ZERO), Ok(Wei::ZERO)));
        for (bad, said) in [
            ("1", "name the unit: 1ether, 1gwei or 1wei"),
            ("0.5", "name the unit: 0.5ether"),
            ("-1 ether", "cannot be below 0"),
            ("1 euro", "with its unit; write it like 0.05ether"),
            ("99999999999ether", "79 billion ether"),
            ("", "write it like"),
        ] {
            let text = amount(bad).unwrap_err();
            assert!(text.contains(said), "{bad}: {text}");
        }
        assert!(above_zero("0 ether").unwrap_err().contains("above 0"));
    }

    #[test]
    fn a_negative_number_is_found_among_the_arguments() {
        let arguments = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let text = negative(&arguments(&["chive", "wallet", "deposit", "-1ether"])).unwrap();
        assert!(text.starts_with("`-1ether` is below 0") && text.contains("0.05ether"), "{text}");
        assert_eq!(negative(&arguments(&["chive", "-x", "--config", "-", "a-1"])), None);
    }
}
