//! One request to the agent's endpoint on this node.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the agent may take for each step.
const PATIENCE: Duration = Duration::from_secs(6);
/// The longest answer that is read, bytes: names of 30,000 Services, or a page of metrics.
const LONGEST: u64 = 64 << 20;

/// Status and body of `GET path`.
pub(crate) fn get(agent: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&agent, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Of HTTP/1.0 the answer comes in one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {agent}\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(LONGEST).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error: std::io::Error| format!("{agent}: {error}"))?;
    parse(&answer).ok_or_else(|| format!("{agent} does not speak HTTP: is another program there?"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(parse(answer), Some((503, "no\n".into())));
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
    }
}
