//! Numbers as people write them in a table and as the code computes them: sizes in bytes, times in nanoseconds, counts.

fn unit(name: &str) -> Option<u128> {
    Some(match name {
        "" | "B" | "ns" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `64 KiB`, `1,024`, `300 ms, 2 s`; what follows in parentheses explains it. `None` if it is anything else.
pub(crate) fn written(cell: &str) -> Option<Vec<u128>> {
    let one = |text: &str| {
        let (digits, name) = text.split_once(' ').unwrap_or((text, ""));
        let number: u128 = digits.replace(',', "").parse().ok()?;
        Some(number * unit(name)?)
    };
    cell.split(" (").next()?.split(", ").map(one).collect()
}

/// Where a name is looked up: in a file, and constants that this does not have in the rest of its crate.
#[derive(Clone, Copy)]
pub(crate) struct Code<'a> {
    pub(crate) file: &'a str,
    pub(crate) rest: &'a str,
}

/// What a file of the code gives to a name, wherever it does in a form that can be computed: a constant, a field of a
/// value, an arm of a `match`. A tuple gives several numbers.
pub(crate) fn defined(code: Code<'_>, name: &str) -> Vec<Vec<u128>> {
    let mut found = Vec::new();
    for (at, _) in code.file.match_indices(name) {
        let (before, after) = (&code.file[..at], &code.file[at + name.len()..]);
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let expression = match after.strip_prefix(':') {
            Some(rest) if before.ends_with("const ") => rest.split_once('=').and_then(|(_, rest)| upto(rest, ';')),
            Some(rest) => upto(rest, ','),
            None if before.ends_with("::") && after.starts_with([' ', '\n']) => {
                let arms = after.split_once("=>").filter(|(patterns, _)| !patterns.contains([',', ';', '{']));
                arms.and_then(|(_, rest)| upto(rest, ','))
            }
            None => None,
        };
        found.extend(expression.and_then(|text| parts(text).into_iter().map(|part| compute(code, part)).collect()));
    }
    found
}

/// The text before the first `end` that stands outside brackets.
fn upto(text: &str, end: char) -> Option<&str> {
    let mut depth = 0_i32;
    let at = text.find(|c: char| {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        depth < 0 || depth == 0 && c == end
    })?;
    Some(text[..at].trim())
}

/// The parts of a tuple; anything else is its own only part.
fn parts(expression: &str) -> Vec<&str> {
    let Some(mut rest) = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else {
        return vec![expression];
    };
    let mut found = Vec::new();
    while let Some(part) = upto(rest, ',') {
        found.push(part);
        rest = rest[rest.find(part).map_or(0, |at| at + part.len())..].trim_start_matches(',').trim();
    }
    found.push(rest);
    found
}

/// The value of an expression of numbers, `<<`, `+`, `-`, `*`, parentheses, `Duration::from_..` and constants.
/// `None` if there is anything else in it.
fn compute(code: Code<'_>, expression: &str) -> Option<u128> {
    let text: String = expression.split(" as ").next()?.chars().filter(|c| !c.is_whitespace() && *c != '_').collect();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    // The operator that binds least, and of those the last one, splits the expression.
    let side = |text: &str| compute(code, text);
    for operators in [&["<<"][..], &["+", "-"], &["*"]] {
        let places = operators.iter().flat_map(|op| expression.match_indices(op)).filter(|(at, _)| {
            let before = &expression[..*at];
            before.matches('(').count() == before.matches(')').count()
        });
        if let Some((at, operator)) = places.max() {
            let (left, right) = (side(&expression[..at])?, side(&expression[at + operator.len()..])?);
            return match operator {
                "<<" => left.checked_shl(right.try_into().ok()?),
                "+" => left.checked_add(right),
                "-" => left.checked_sub(right),
                _ => left.checked_mul(right),
            };
        }
    }
    let expression = expression.trim();
    let (function, argument) = expression.split_once('(').unwrap_or((expression, ""));
    let argument = argument.strip_suffix(')').unwrap_or(argument);
    match function {
        "" if !argument.is_empty() => side(argument),
        "Duration::from_nanos" => side(argument),
        "Duration::from_micros" => Some(side(argument)? * unit("us")?),
        "Duration::from_millis" => Some(side(argument)? * unit("ms")?),
        "Duration::from_secs" => Some(side(argument)? * unit("s")?),
        "Duration::from_mins" => Some(side(argument)? * unit("min")?),
        "Duration::from_hours" => Some(side(argument)? * unit("h")?),
        name if !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_') => {
            let Code { rest, .. } = code;
            let here = [defined(code, name), defined(Code { file: rest, rest: "" }, name)];
            match here.iter().find(|found| !found.is_empty())?.as_slice() {
                [one] => one.first().copied(),
                _ => None,
            }
        }
        _ => None,
    }
}

#[test]
fn numbers_are_read_as_people_write_them() {
    assert_eq!(written("1,024"), Some(vec![1024]));
    assert_eq!(written("1,984 KiB (2 MiB - 64 KiB)"), Some(vec![(2 << 20) - (64 << 10)]));
    assert_eq!(written("300 ms, 2 s"), Some(vec![300_000_000, 2_000_000_000]));
    assert_eq!([written("5 apples"), written("by class: 1 MiB"), written("")], [None, None, None]);
}

#[test]
fn numbers_are_computed_as_the_compiler_does() {
    let source = "const BLOCK: usize = 2 * 1024 * 1024 - 64 * 1024;\npub const B: (D, D) = (Duration::from_secs(1), Duration::from_mins(2));\n\
        const C: u64 = 1 << 4 + 1; const NEAR: usize = 3 * FAR; const LONG: usize = BLOCK - (1 << 10);\nSelf { field: 64 << 10, other: Duration::from_millis(5) }\n\
        match x { F::One | F::Two => 20, F::Three => 3, }";
    let one = |name| defined(Code { file: source, rest: "const FAR: usize = 7;" }, name);
    assert_eq!(one("BLOCK"), [[(2 << 20) - (64 << 10)]]);
    assert_eq!(one("B"), [[1_000_000_000, 120_000_000_000]]);
    assert_eq!(one("C"), [[32]]);
    assert_eq!(one("NEAR"), [[21]]);
    assert_eq!(one("LONG"), [[(2 << 20) - (65 << 10)]]);
    assert_eq!([one("field"), one("other")], [[[64 << 10]], [[5_000_000]]]);
    assert_eq!([one("One"), one("Two"), one("Three")], [[[20]], [[20]], [[3]]]);
    assert!(one("nothing").is_empty());
}
