//! Client and server of the measurements: this binary, started again inside a pod.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;

/// What a child does.
#[derive(Args, Clone, Debug)]
pub struct Role {
    /// Answers on this address until it is killed.
    #[arg(long, hide = true)]
    serve: Option<SocketAddr>,
    /// Measures against this address and prints one line of figures.
    #[arg(long, hide = true)]
    load: Option<SocketAddr>,
    #[arg(long, hide = true, value_enum, default_value = "requests")]
    kind: Kind,
    #[arg(long, hide = true, default_value_t = 300)]
    milliseconds: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Connect, one request, one answer, close: connections/s, median connect() in us, CPU us of both sides a connection.
    Connections,
    /// One connection, requests and answers in turn: `1/s`.
    Requests,
    /// One connection of iperf3: `Gbit/s`.
    Stream,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Stream => "stream",
        }
    }
}

impl Role {
    /// Runs as a child, if this process is one.
    pub fn run(&self) -> Option<Result<()>> {
        if let Some(address) = self.serve {
            return Some(serve(address));
        }
        self.load.map(|address| {
            let time = Duration::from_millis(self.milliseconds);
            let figures = match self.kind {
                Kind::Connections => connections(address, time)?,
                Kind::Requests => vec![requests(address, time)?],
                Kind::Stream => bail!("a stream is iperf3's"),
            };
            let line: Vec<String> = figures.iter().map(f64::to_string).collect();
            println!("{}", line.join(" "));
            Ok(())
        })
    }
}

/// The first byte of a message says what it wants: `q` one answer and the end, `r` an answer, `c` the CPU time this process
/// has used.
fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    println!("ready");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let mut buffer = [0; MESSAGE];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let answered = match buffer[0] {
                // The server ends first, or the client would run out of ports that wait.
                b'q' => {
                    let _ = stream.write_all(&buffer[..length]);
                    break;
                }
                b'r' => stream.write_all(&buffer[..length]),
                b'c' => stream.write_all(&cpu_us().to_be_bytes()),
                _ => Ok(()),
            };
            if answered.is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2));
    let stream = stream.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, kind: u8, message: &mut [u8; MESSAGE]) -> Result<()> {
    message[0] = kind;
    stream.write_all(message)?;
    stream.read_exact(message).context("no answer")
}

/// CPU time of this process, user and system, us. What the network stack does in its context is in it.
fn cpu_us() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let time = |value: nix::sys::time::TimeVal| (value.tv_sec() * 1_000_000 + value.tv_usec()) as u64;
    usage.map(|usage| time(usage.user_time()) + time(usage.system_time())).unwrap_or_default()
}

fn cpu_of_server(address: SocketAddr) -> Result<u64> {
    let mut stream = connect(address)?;
    stream.write_all(b"c")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("no answer")?;
    Ok(u64::from_be_bytes(answer))
}

fn connections(address: SocketAddr, time: Duration) -> Result<Vec<f64>> {
    let cpu = cpu_us() + cpu_of_server(address)?;
    let (start, mut connects) = (Instant::now(), Vec::new());
    let mut message = [0; MESSAGE];
    while start.elapsed() < time {
        let before = Instant::now();
        let mut stream = connect(address)?;
        connects.push(before.elapsed().as_secs_f64() * 1e6);
        exchange(&mut stream, b'q', &mut message)?;
        ensure!(stream.read(&mut message)? == 0, "the server goes on");
    }
    let count = connects.len();
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let cpu = (cpu_us() + cpu_of_server(address)?).saturating_sub(cpu) as f64;
    connects.sort_by(f64::total_cmp);
    let Some(median) = connects.get(count / 2) else { bail!("no connection in {time:?}") };
    Ok(vec![rate, *median, cpu / count as f64])
}

fn requests(address: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(address)?;
    let mut message = [0; MESSAGE];
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        exchange(&mut stream, b'r', &mut message)?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
