//! One question to the agent, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

/// How long the agent may take to read the request.
const SEND: Duration = Duration::from_secs(5);
/// How long it may take to answer. It says itself that a call is slow before this.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest answer, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody listens, or whoever did is gone.
    Away(String),
    /// It listens, but does not answer in time.
    Silent(String),
    /// It answers something else.
    Garbled(String),
}

/// The agent's result, or its error as it is to be printed.
pub(crate) fn call(socket: &str, request: &Value) -> Result<Result<Value, Value>, Trouble> {
    let away = |error: io::Error| Trouble::Away(format!("the agent is away ({socket}: {error})"));
    let mut stream = UnixStream::connect(socket).map_err(away)?;
    let timeouts = stream.set_write_timeout(Some(SEND)).and_then(|()| stream.set_read_timeout(Some(ANSWER)));
    timeouts.map_err(away)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(|error| trouble(socket, error))?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    reader.read_until(b'\n', &mut line).map_err(|error| trouble(socket, error))?;
    if line.is_empty() {
        return Err(Trouble::Away(format!("the agent ended during the call ({socket})")));
    }
    let garbled = |reason: &str| Trouble::Garbled(format!("the answer of {socket} is not the agent's: {reason}"));
    let mut reply: Value = serde_json::from_slice(&line).map_err(|error| garbled(&error.to_string()))?;
    match (reply.get_mut("result").map(Value::take), reply.get_mut("error").map(Value::take)) {
        (Some(result), None) => Ok(Ok(result)),
        (None, Some(error)) => Ok(Err(error)),
        _ => Err(garbled("neither a result nor an error")),
    }
}

fn trouble(socket: &str, error: io::Error) -> Trouble {
    match error.kind() {
        // A read or write past its timeout is EAGAIN on Linux.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Trouble::Silent(format!("the agent does not answer ({socket}, {} s)", ANSWER.as_secs()))
        }
        _ => Trouble::Away(format!("the agent ended during the call ({socket}: {error})")),
    }
}
