//! Clients that behave, and others.

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use weir_metrics::Format;

use super::*;

/// For what must come to an end, and would wait for ever if it did not.
const BOUND: Duration = Duration::from_secs(60);
/// Bytes of a text that no client's buffers take.
const LONG: usize = 24 << 20;
const QUICK: Limits =
    Limits { connections: 2, request: Duration::from_secs(1), connection: Duration::from_secs(4) };

/// A server of a known text, and how often that was written.
struct Site {
    address: SocketAddr,
    written: Arc<AtomicUsize>,
    wanted: watch::Sender<Vec<SocketAddr>>,
}

fn free() -> SocketAddr {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn start(address: SocketAddr, length: usize) -> Site {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let answerer = Answerer::new(move |format| {
        counter.fetch_add(1, Ordering::Relaxed);
        let name = if format == Format::OpenMetrics { "open" } else { "text" };
        Ok(format!("{name} {}", "x".repeat(length)))
    });
    let (wanted, heard) = watch::channel(vec![address]);
    tokio::spawn(run(heard, Arc::new(answerer), QUICK));
    Site { address, written, wanted }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let connected = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(BOUND, connected).await.expect("somebody who listens")
}

/// All that comes until the other side hangs up.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(BOUND, stream.read_to_end(&mut bytes)).await.expect("an end");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address).await;
    // One that is refused before it has come whole may be cut off.
    let _ = stream.write_all(request.as_bytes()).await;
    rest(&mut stream).await
}

fn get(accept: &str) -> String {
    format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n")
}

#[tokio::test]
async fn metrics_are_had_in_both_formats_and_nothing_else_is() {
    let site = start(free(), 1);
    let text = ask(site.address, &get("*/*")).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\ntext x"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    let open = ask(site.address, &get("application/openmetrics-text; version=1.0.0")).await;
    assert!(open.contains("content-type: application/openmetrics-text"), "{open}");
    assert!(open.ends_with("\r\n\r\nopen x"), "{open}");
    let head = ask(site.address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.contains("content-length: 6\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", "405 "),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405 "),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404 "),
        ("GET /metrics/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "404 "),
        ("GET /metrics HTTP/9.9\r\n\r\n", "400 "),
        ("\u{16}\u{3}\u{1}\r\n\r\n", "400 "),
    ] {
        let answer = ask(site.address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
}

#[tokio::test]
async fn heads_without_end_are_refused() {
    let site = start(free(), 1);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 16));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    for request in [long, many] {
        let answer = ask(site.address, &request).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(ask(site.address, &get("*/*")).await.contains(" 200 "));
    assert_eq!(site.written.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_says_nothing_or_reads_nothing_is_hung_up_on_and_others_have_their_turn() {
    // More than buffers of sockets take (tcp_wmem and tcp_rmem, tcp(7)).
    let site = start(free(), LONG);
    for request in [String::new(), get("*/*")] {
        let mut held = [connect(site.address).await, connect(site.address).await];
        for stream in &mut held {
            stream.write_all(request.as_bytes()).await.unwrap();
        }
        // Both places are taken, until one is hung up on.
        let answer = ask(site.address, &get("*/*")).await;
        assert!(answer.contains(" 200 OK") && answer.len() > LONG, "{answer:.80}");
        let [first, second] = &mut held;
        let least = rest(first).await.len().min(rest(second).await.len());
        assert!(least < LONG, "cut off");
    }
}

#[tokio::test]
async fn however_many_ask_figures_are_read_a_few_times() {
    let site = start(free(), 1);
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(ask(site.address, &get("*/*")).await.contains(" 200 OK"));
    }
    let most = 1 + begun.elapsed().as_millis() / 100;
    let written = site.written.load(Ordering::Relaxed) as u128;
    assert!(written <= most, "{written} of at most {most}");
}

#[tokio::test]
async fn an_address_that_another_has_is_tried_again_and_one_that_is_wanted_no_more_is_left() {
    let [taken, other] = [free(), free()];
    let holder = StdListener::bind(taken).unwrap();
    let site = start(taken, 1);
    site.wanted.send(vec![taken, other]).unwrap();
    assert!(ask(other, &get("*/*")).await.contains(" 200 OK"), "the other one is served");
    drop(holder);
    assert!(ask(taken, &get("*/*")).await.contains(" 200 OK"));
    site.wanted.send(vec![taken]).unwrap();
    let left = async {
        while TcpStream::connect(other).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, left).await.expect("nobody there");
}
