//! What the end-to-end tests run in pods and on nodes: a server that says its name, and clients that say what came of
//! it. One word a line: the name that answered, or `refused`, `reset`, `closed`, `timeout`, `unreachable`; ` late` is
//! added to a refusal that took longer than [`AT_ONCE`].

use std::env;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A refusal that takes longer did not come at once; loaded machines with two cores are slow.
const AT_ONCE: Duration = Duration::from_millis(900);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two lines of a held connection.
const BEAT: Duration = Duration::from_millis(100);

const USAGE: &str = "probe serve NAME TCP ECHO UDP [ADDRESS,..] | witness PORT ADDRESS,.. | tcp ADDRESS PORT COUNT |
    udp ADDRESS PORT COUNT | datagrams ADDRESS PORT COUNT | hold ADDRESS PORT SECONDS";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", name, tcp, echo, udp] => serve(name, tcp.parse()?, echo.parse()?, udp.parse()?, "::"),
        ["serve", name, tcp, echo, udp, own] => serve(name, tcp.parse()?, echo.parse()?, udp.parse()?, own),
        ["witness", port, own] => witness(port.parse()?, own),
        ["hold", address, port, seconds] => hold(target(address, port)?, Duration::from_secs(seconds.parse()?)),
        [how @ ("tcp" | "udp"), address, port, count] => {
            let (target, ask) = (target(address, port)?, if *how == "tcp" { ask_tcp } else { ask_udp });
            for _ in 0..count.parse()? {
                let start = Instant::now();
                if !say(ask(target), start) {
                    break;
                }
            }
            Ok(())
        }
        ["datagrams", address, port, count] => datagrams(target(address, port)?, count.parse()?),
        _ => bail!("{USAGE}"),
    }
}

fn target(address: &str, port: &str) -> Result<SocketAddr> {
    let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    Ok(SocketAddr::new(address, port.parse()?))
}

/// Prints what came of a question. `false`: nothing, and waiting again would take long and say no more.
fn say(answer: io::Result<String>, start: Instant) -> bool {
    let said = answer.unwrap_or_else(|error| word(&error, start.elapsed()));
    println!("{said}");
    said != "timeout"
}

fn word(error: &io::Error, took: Duration) -> String {
    let late = if took > AT_ONCE { " late" } else { "" };
    match error.kind() {
        ErrorKind::ConnectionRefused => format!("refused{late}"),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset".into(),
        ErrorKind::UnexpectedEof => "closed".into(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout".into(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".into(),
        _ => format!("failed: {error}"),
    }
}

fn ask_tcp(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(answer.trim().to_owned()) }
}

/// A socket of its own, connected.
fn ask_udp(target: SocketAddr) -> io::Result<String> {
    let socket = socket(target)?;
    socket.connect(target)?;
    socket.send(b"who")?;
    let mut answer = [0; 256];
    let size = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..size]).trim().to_owned())
}

/// Datagrams of one socket that is not connected; an answer from elsewhere than was asked says from where.
fn datagrams(target: SocketAddr, count: usize) -> Result<()> {
    let socket = socket(target)?;
    for _ in 0..count {
        let start = Instant::now();
        let answer = socket.send_to(b"who", target).and_then(|_| {
            let mut answer = [0; 256];
            let (size, from) = socket.recv_from(&mut answer)?;
            let name = String::from_utf8_lossy(&answer[..size]).trim().to_owned();
            Ok(if from == target { name } else { format!("{name} from {from}") })
        });
        if !say(answer, start) {
            break;
        }
    }
    Ok(())
}

fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Holds a connection to an echo: says `held` when it is there, and again at the end of the time, or what ended it.
fn hold(target: SocketAddr, time: Duration) -> Result<()> {
    let start = Instant::now();
    let end = match held(target, start + time) {
        Ok(()) => "held".to_owned(),
        Err(error) => word(&error, Duration::ZERO),
    };
    println!("{end}");
    Ok(())
}

fn held(target: SocketAddr, end: Instant) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut first = true;
    while Instant::now() < end {
        let mut back = [0; 4];
        stream.write_all(b"beat")?;
        stream.read_exact(&mut back)?;
        if first {
            println!("held");
            first = false;
        }
        thread::sleep(BEAT);
    }
    Ok(())
}

/// Answers with a name by TCP and UDP, and echoes by TCP, on every address of both families. `own`: the addresses for
/// UDP, whose answers would otherwise have whatever address the route back prefers.
fn serve(name: &str, tcp: u16, echo: u16, udp: u16, own: &str) -> Result<()> {
    let listen = |port: u16| TcpListener::bind(("::", port)).with_context(|| format!("cannot listen on {port}"));
    let (names, echoes) = (listen(tcp)?, listen(echo)?);
    let datagrams = own.split(',').map(|address| UdpSocket::bind((address, udp)).context(address.to_owned()));
    let datagrams = datagrams.collect::<Result<Vec<_>>>().context("cannot bind for UDP")?;
    ensure!(!name.is_empty(), "a server needs a name");
    let answer = format!("{name}\n");
    thread::scope(|scope| {
        scope.spawn(|| {
            for mut stream in names.incoming().flatten() {
                // A client that is gone needs no answer.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        scope.spawn(|| {
            for stream in echoes.incoming().flatten() {
                thread::spawn(move || io::copy(&mut (&stream), &mut (&stream)));
            }
        });
        for socket in &datagrams {
            scope.spawn(|| answer_datagrams(socket, |_| answer.clone()));
        }
    });
    Ok(())
}

/// Tells everybody who asks by TCP or UDP under which address it sees them.
fn witness(port: u16, own: &str) -> Result<()> {
    let listen = |address| TcpListener::bind((address, port)).with_context(|| format!("cannot listen on {address}"));
    let bind = |address| UdpSocket::bind((address, port)).with_context(|| format!("cannot bind {address} for UDP"));
    let listeners = own.split(',').map(listen).collect::<Result<Vec<_>>>()?;
    let sockets = own.split(',').map(bind).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.peer_addr().and_then(|peer| writeln!(stream, "{}", peer.ip()));
                }
            });
        }
        for socket in &sockets {
            scope.spawn(|| answer_datagrams(socket, |from| from.ip().to_string()));
        }
    });
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, answer: impl Fn(SocketAddr) -> String) {
    let mut question = [0; 2048];
    loop {
        // An error is about an earlier answer whose receiver is gone.
        if let Ok((_, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(answer(from).as_bytes(), from);
        }
    }
}
