//! The few programs that the model runs, told by their command lines as a shell would read them.

use std::time::Duration;

/// What a process does: how long it runs by itself, and whether it obeys TERM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// `sh -c "exit N"`.
    Exits(i32),
    /// `sleep N`: the first process of a container, without a handler, does not see TERM.
    Sleeps(Duration),
    /// `sh -c` with `trap 'exit N' TERM`.
    Obeys(i32),
    /// A path below /nonexistent.
    Missing,
    /// Anything else runs for ever and does not see TERM.
    Stubborn,
}

impl Program {
    pub(super) fn new(command: &[String], args: &[String]) -> Program {
        let words: Vec<&str> = command.iter().chain(args).map(String::as_str).collect();
        match words.as_slice() {
            [path, ..] if path.starts_with("/nonexistent") => Program::Missing,
            ["sleep", seconds, ..] => {
                seconds.parse().map_or(Program::Stubborn, |n| Program::Sleeps(Duration::from_secs(n)))
            }
            ["sh", "-c", script, ..] => Program::of_script(script),
            _ => Program::Stubborn,
        }
    }

    fn of_script(script: &str) -> Program {
        let code_after = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        if let Some(rest) = script.strip_prefix("trap 'exit ") {
            return code_after(rest).map_or(Program::Stubborn, Program::Obeys);
        }
        // Only the last command of the script counts: what it prints has no place in the model.
        let last = script.rsplit("; ").next().unwrap_or(script);
        last.strip_prefix("exit ").and_then(code_after).map_or(Program::Stubborn, Program::Exits)
    }

    pub(super) fn is_missing(&self) -> bool {
        *self == Program::Missing
    }

    /// When the program ends by itself after its start, and with which code.
    pub(super) fn natural_end(&self) -> Option<(Duration, i32)> {
        match self {
            Program::Exits(code) => Some((Duration::from_millis(1), *code)),
            Program::Sleeps(time) => Some((*time, 0)),
            Program::Missing => Some((Duration::ZERO, 126)),
            Program::Obeys(_) | Program::Stubborn => None,
        }
    }

    /// The exit code when TERM ends it; `None` when only KILL does.
    pub(super) fn answer_to_term(&self) -> Option<i32> {
        match self {
            Program::Obeys(code) => Some(*code),
            _ => None,
        }
    }
}
