//! Sizes and `unsafe` of one source file, from its tokens.

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 500;

/// `:LINE: problem` for each function or file that is too long.
pub(super) fn sizes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES {
        found.push(format!(": {lines} lines, more than {FILE_LINES}"));
    }
    let code = blank(text);
    for (name, first, last) in functions(&code) {
        let length = last - first + 1;
        if length > FUNCTION_LINES {
            found.push(format!(":{first}: `{name}` has {length} lines, more than {FUNCTION_LINES}"));
        }
    }
    found
}

/// Numbers of the lines that say `unsafe` outside comments and strings.
pub(super) fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = blank(text);
    let lines = code.lines().enumerate();
    lines.filter(|(_, line)| words(line).any(|word| word == "unsafe")).map(|(index, _)| index + 1).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// Name, first and last line of each function with a body, nested ones too.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let characters: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let mut line = 1;
    for (index, character) in characters.iter().enumerate() {
        line += usize::from(*character == '\n');
        let before = index.checked_sub(1).map(|before| characters[before]);
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if starts && characters[index..].starts_with(&['f', 'n', ' ']) {
            let name: String =
                characters[index + 3..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            if let (false, Some(length)) = (name.is_empty(), body_end(&characters[index..])) {
                let newlines = characters[index..index + length].iter().filter(|c| **c == '\n').count();
                found.push((name, line, line + newlines));
            }
        }
    }
    found
}

/// Characters up to the brace that closes the body; None for a declaration without one.
fn body_end(characters: &[char]) -> Option<usize> {
    let (mut round, mut curly) = (0i32, 0i32);
    for (index, character) in characters.iter().enumerate() {
        match character {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            ';' if round == 0 && curly == 0 => return None,
            '{' => curly += 1,
            '}' => {
                curly -= 1;
                if curly == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments, strings and character literals blanked, lines kept.
fn blank(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < characters.len() {
        let length = skipped(&characters, index);
        if length == 0 {
            out.push(characters[index]);
            index += 1;
        } else {
            let end = (index + length).min(characters.len());
            out.extend(characters[index..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            index = end;
        }
    }
    out
}

/// How many characters from `index` on are a comment or a literal: 0 for code.
fn skipped(characters: &[char], index: usize) -> usize {
    let rest = &characters[index..];
    let word_before = index > 0 && (characters[index - 1].is_alphanumeric() || characters[index - 1] == '_');
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted(rest),
        ['r', '"' | '#', ..] if !word_before => raw_string(&rest[1..]).map_or(0, |length| length + 1),
        ['b', 'r', '"' | '#', ..] if !word_before => raw_string(&rest[2..]).map_or(0, |length| length + 2),
        ['\'', '\\', ..] => rest[2..].iter().skip(1).position(|c| *c == '\'').map_or(rest.len(), |at| at + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut index = 0;
    while index + 1 < rest.len() {
        match (rest[index], rest[index + 1]) {
            ('/', '*') => (depth, index) = (depth + 1, index + 2),
            ('*', '/') => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    rest.len()
}

fn quoted(rest: &[char]) -> usize {
    let mut index = 1;
    while index < rest.len() {
        match rest[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    rest.len()
}

/// Length of a raw string from its hashes on; None when it is only an `r#identifier`.
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let body = &rest[hashes + 1..];
    let end = body.windows(close.len()).position(|window| window == close.as_slice());
    Some(end.map_or(rest.len(), |end| hashes + 1 + end + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_in_strings_and_comments_do_not_count() {
        let text = "fn a() {\n  let s = \"}\"; // }\n  let r = r#\"}\"}\"#; let c = '}'; let l: &'static str = \"\\\"}\";\n}\nfn b(x: [u8; 3]) {}\n";
        let found = functions(&blank(text));
        assert_eq!(found, [("a".into(), 1, 4), ("b".into(), 5, 5)]);
    }

    #[test]
    fn a_long_function_is_found_with_its_line() {
        let text = format!("\nfn short() {{}}\nfn long() {{\n{}}}\n", "    x();\n".repeat(69));
        assert_eq!(sizes(&text), [":3: `long` has 71 lines, more than 70"]);
    }

    #[test]
    fn unsafe_counts_only_as_code() {
        let text = "// unsafe\nlet a = \"unsafe\";\n#![deny(unsafe_code)]\nunsafe { x() }\n";
        assert_eq!(unsafe_lines(text), [4]);
    }
}
