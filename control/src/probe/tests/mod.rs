//! Probes against servers on the loopback interface.

mod uplinks;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder};
use nix::sched::{CloneFlags, unshare};
use socket2::{Protocol, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use weir_health::{Path, ProbeError, Reason, State, TlsFault};
use weir_site::health::{Health, Probe, Record, Target};

use super::icmp::Pinger;
use super::probers::{Means, launch};
use super::sniffer::Sniffer;
use super::{Binding, Event, Finding, ProbedUplink, Probers, Trust};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(20);

fn lo() -> Binding {
    Binding {
        device: "lo".into(),
        source4: Some(Ipv4Addr::LOCALHOST),
        source6: Some(Ipv6Addr::LOCALHOST),
    }
}

async fn ask(kind: Probe) -> Result<(), ProbeError> {
    ask_by(kind, Trust::default()).await
}

async fn ask_by(kind: Probe, trust: Trust) -> Result<(), ProbeError> {
    ask_beside(kind, trust, Arc::default()).await
}

async fn ask_beside(kind: Probe, trust: Trust, sniffer: Arc<Sniffer>) -> Result<(), ProbeError> {
    let means = Means { pinger: Arc::new(Pinger::new(lo())), trust, sniffer };
    let probe = async {
        let answer = launch(&kind, &lo(), &means, 0x0123_4567_89ab_cdef).await?;
        answer.await
    };
    timeout(LONG, probe).await.expect("an end of the probe")
}

/// A socket address on which nobody listens.
async fn closed() -> SocketAddr {
    TcpListener::bind((V4, 0)).await.unwrap().local_addr().unwrap()
}

#[test]
fn sockets_are_bound_to_device_and_source() {
    let socket = lo().socket(V4, Type::STREAM, Protocol::TCP).unwrap();
    assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
    let source = socket.local_addr().unwrap().as_socket().unwrap();
    assert_eq!(source.ip(), V4);
    assert!(socket.nonblocking().unwrap());
}

#[test]
fn a_socket_for_what_is_not_there_is_an_error() {
    let no_device = Binding { device: "weir-none".into(), ..lo() };
    let error = no_device.socket(V4, Type::STREAM, Protocol::TCP).unwrap_err();
    assert_eq!(super::socket_error(&error), ProbeError::Local(19), "ENODEV");
    let no_address = Binding { source4: Some(Ipv4Addr::new(192, 0, 2, 1)), ..lo() };
    let error = no_address.socket(V4, Type::STREAM, Protocol::TCP).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn icmp_is_answered() {
    assert_eq!(ask(Probe::Icmp { address: V4 }).await, Ok(()));
}

#[tokio::test]
async fn icmpv6_is_answered() {
    let address = Ipv6Addr::LOCALHOST.into();
    assert_eq!(ask(Probe::Icmp { address }).await, Ok(()));
}

#[tokio::test]
async fn tcp_tells_open_from_closed() {
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(ask(Probe::Tcp { address }).await, Ok(()));
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), V4);
    assert_eq!(ask(Probe::Tcp { address: closed().await }).await, Err(ProbeError::Refused));
}

/// Answers each request with `response`; the last request is given.
async fn web(response: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap_or(0);
            // The test may be over, or the probe gone.
            let _ = heard.send(String::from_utf8_lossy(&request[..length]).into_owned());
            let _ = stream.write_all(response.as_bytes()).await;
        }
    });
    (address, requests)
}

fn http(address: SocketAddr, status: Option<u16>, body: Option<&str>) -> Probe {
    Probe::Http {
        url: format!("http://www.example:{}/health?full", address.port()),
        address: Some(address.ip()),
        expect_status: status,
        expect_body: body.map(str::to_owned),
    }
}

#[tokio::test]
async fn http_asks_for_the_url_of_its_host() {
    let (address, mut requests) = web("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(ask(http(address, None, None)).await, Ok(()));
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("GET /health?full HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: www.example:{}\r\n", address.port())), "{request}");
}

#[tokio::test]
async fn http_takes_any_answer_below_500_unless_told_what_to_expect() {
    let (address, _requests) = web("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(ask(http(address, None, None)).await, Ok(()));
    assert_eq!(ask(http(address, Some(204), None)).await, Err(ProbeError::HttpStatus(302)));
    assert_eq!(ask(http(address, Some(302), None)).await, Ok(()));
    let (address, _requests) = web("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(ask(http(address, None, None)).await, Ok(()));
    // RFC 6585 §6: a portal wants something first.
    const PORTAL: &str = "HTTP/1.1 511 Network Authentication Required\r\n\r\n";
    let (address, _requests) = web(PORTAL).await;
    assert_eq!(ask(http(address, None, None)).await, Err(ProbeError::HttpStatus(511)));
}

#[tokio::test]
async fn http_wants_its_text() {
    let (address, _requests) = web("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall well").await;
    assert_eq!(ask(http(address, None, Some("well"))).await, Ok(()));
    // What a captive portal does.
    assert_eq!(ask(http(address, None, Some("success"))).await, Err(ProbeError::HttpBody));
}

#[tokio::test]
async fn http_finds_its_text_across_chunks() {
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        4\r\nall \r\n1\r\nw\r\n3\r\nell\r\n0\r\n\r\n";
    let (address, _requests) = web(CHUNKS).await;
    assert_eq!(ask(http(address, None, Some("all well"))).await, Ok(()));
    assert_eq!(ask(http(address, None, Some("l"))).await, Ok(()));
    assert_eq!(ask(http(address, None, Some("wall"))).await, Err(ProbeError::HttpBody));
}

#[tokio::test]
async fn http_wants_http() {
    let (address, _requests) = web("SSH-2.0-none\r\n\r\n").await;
    assert_eq!(ask(http(address, None, None)).await, Err(ProbeError::Malformed));
}

/// An `https` server of this certificate and key.
async fn tls_web(server: rcgen::CertifiedKey<rcgen::KeyPair>) -> (SocketAddr, RootCertStore) {
    let certificate = server.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    (address, roots)
}

async fn get_by_tls(host: &str, address: SocketAddr, trust: Trust) -> Result<(), ProbeError> {
    let kind = Probe::Http {
        url: format!("https://{host}:{}/", address.port()),
        address: Some(address.ip()),
        expect_status: None,
        expect_body: None,
    };
    ask_by(kind, trust).await
}

#[tokio::test]
async fn https_wants_a_certificate_of_its_roots_and_name() {
    let server = rcgen::generate_simple_self_signed(["www.example".to_owned()]).unwrap();
    let (address, roots) = tls_web(server).await;
    let ours = Trust::only(roots);
    assert_eq!(get_by_tls("www.example", address, ours.clone()).await, Ok(()));
    let other = get_by_tls("other.example", address, ours).await;
    assert_eq!(other, Err(ProbeError::Tls(TlsFault::WrongName)));
    let nobody = Trust::only(RootCertStore::empty());
    let unknown = get_by_tls("www.example", address, nobody).await;
    assert_eq!(unknown, Err(ProbeError::Tls(TlsFault::UnknownIssuer)));
    let (plain, _requests) = web("HTTP/1.1 204 No Content\r\n\r\n").await;
    let no_tls = get_by_tls("www.example", plain, Trust::default()).await;
    assert_eq!(no_tls, Err(ProbeError::Tls(TlsFault::Protocol)));
}

#[tokio::test]
async fn https_tells_when_a_certificate_is_out_of_date() {
    for (year, fault) in [(1980, TlsFault::Expired), (4000, TlsFault::NotValidYet)] {
        let mut parameters = rcgen::CertificateParams::new(["www.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(year, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        let signing_key = rcgen::KeyPair::generate().unwrap();
        let cert = parameters.self_signed(&signing_key).unwrap();
        let (address, roots) = tls_web(rcgen::CertifiedKey { cert, signing_key }).await;
        let told = get_by_tls("www.example", address, Trust::only(roots)).await;
        assert_eq!(told, Err(ProbeError::Tls(fault)));
    }
}

/// Answers each query twice: first with another number, then with the code.
async fn name_server(code: Rcode) -> SocketAddr {
    name_server_on(0, code).await
}

async fn name_server_on(port: u16, code: Rcode) -> SocketAddr {
    let socket = UdpSocket::bind((V4, port)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let query = Message::from_octets(packet[..length].to_vec()).unwrap();
            for (wrong, code) in [(1, Rcode::REFUSED), (0, code)] {
                let answer = MessageBuilder::new_vec().start_answer(&query, code).unwrap();
                let mut answer = answer.into_message().into_octets();
                answer[1] ^= wrong;
                socket.send_to(&answer, peer).await.unwrap();
            }
        }
    });
    address
}

fn dns(server: SocketAddr) -> Probe {
    Probe::Dns { server, name: "www.example".into(), kind: Record::Aaaa }
}

#[tokio::test]
async fn dns_takes_the_answer_to_its_question_alone() {
    assert_eq!(ask(dns(name_server(Rcode::NOERROR).await)).await, Ok(()));
    assert_eq!(ask(dns(name_server(Rcode::NXDOMAIN).await)).await, Ok(()));
    let failing = name_server(Rcode::SERVFAIL).await;
    assert_eq!(ask(dns(failing)).await, Err(ProbeError::DnsCode(2)));
}

#[tokio::test]
async fn dns_hears_that_nobody_listens() {
    let closed = UdpSocket::bind((V4, 0)).await.unwrap().local_addr().unwrap();
    assert_eq!(ask(dns(closed)).await, Err(ProbeError::Refused));
}

fn health(kinds: Vec<Probe>) -> Health {
    let name = |index| format!("t{index}");
    let target = |(index, kind)| Target { name: name(index), kind };
    let targets = kinds.into_iter().enumerate().map(target).collect();
    Health { interval_ms: 100, targets, ..Health::default() }
}

fn fiber(health: &Health) -> ProbedUplink<'_> {
    ProbedUplink { name: "fiber", binding: lo(), health, silent: false }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(LONG, events.recv()).await.expect("an event").expect("probers")
}

/// The number of the next probe of a target that leaves.
async fn sent(events: &mut mpsc::Receiver<Event>, target: &str) -> u32 {
    loop {
        let event = next(events).await;
        if *event.target == *target && event.finding == Finding::Sent {
            return event.seq;
        }
    }
}

#[tokio::test]
async fn probes_that_answer_bring_an_uplink_up_and_silence_takes_it_down() {
    let silent = UdpSocket::bind((V4, 0)).await.unwrap();
    let server = silent.local_addr().unwrap();
    let good = Health { up: 1, hold_down_ms: 0, ..health(vec![Probe::Icmp { address: V4 }]) };
    let bad = health(vec![dns(server)]);
    let (sender, mut events) = mpsc::channel(100);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    let mut uplink = Path::adopt(good.clone(), 0);
    uplink.signal(weir_health::Signal::Carrier(false), 0);
    uplink.signal(weir_health::Signal::Carrier(true), 0);
    assert_eq!(uplink.state(), State::Down);
    let start = tokio::time::Instant::now();
    for (health, state) in [(good, State::Up), (bad, State::Down)] {
        uplink.reconfigure(health.clone(), start.elapsed().as_millis() as u64);
        probers.set(&[fiber(&health)]);
        while uplink.state() != state {
            let event = next(&mut events).await;
            if let Some(signal) = event.signal(&health) {
                uplink.signal(signal, (event.at - start).as_millis() as u64);
            }
        }
    }
    assert_eq!(uplink.reason(), Reason::TargetsFailed { failed: 1, of: 1, quorum: 1 });
    let error = uplink.targets()[0].error();
    assert_eq!(error.map(|(error, _)| error), Some(ProbeError::Timeout));
}

#[tokio::test]
async fn reloading_restarts_only_what_changed() {
    let icmp = Probe::Icmp { address: V4 };
    let other = Probe::Icmp { address: Ipv4Addr::new(127, 0, 0, 2).into() };
    let (sender, mut events) = mpsc::channel(1);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    let before = health(vec![icmp.clone(), icmp.clone()]);
    probers.set(&[fiber(&before)]);
    let (kept, changed) = (sent(&mut events, "t0").await, sent(&mut events, "t1").await);
    let mut after = health(vec![icmp, other]);
    after.targets.reverse();
    probers.set(&[fiber(&after)]);
    // Events wait in the channel and in senders: what comes now may be up to a few probes on.
    let (kept_on, restarted) = (sent(&mut events, "t0").await, sent(&mut events, "t1").await);
    assert!((1..10).contains(&kept_on.wrapping_sub(kept)), "{kept} {kept_on}");
    let mut distance = restarted.wrapping_sub(changed);
    for _ in 0..5 {
        distance = distance.max(sent(&mut events, "t1").await.wrapping_sub(changed));
    }
    assert!(distance > 100, "{changed} {restarted}: it was not restarted");
}

#[tokio::test]
async fn probes_of_ipv4_go_on_when_the_ipv6_address_changes() {
    let (sender, mut events) = mpsc::channel(1);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    let health = health(vec![Probe::Icmp { address: V4 }]);
    probers.set(&[fiber(&health)]);
    let mut last = sent(&mut events, "t0").await;
    for source6 in [None, "2001:db8::7".parse().ok()] {
        let binding = Binding { source6, ..lo() };
        probers.set(&[ProbedUplink { binding, ..fiber(&health) }]);
        for _ in 0..5 {
            let next = sent(&mut events, "t0").await;
            assert!((1..10).contains(&next.wrapping_sub(last)), "{last} {next}: it was restarted");
            last = next;
        }
    }
}

#[tokio::test]
async fn a_target_that_is_gone_is_not_probed() {
    let icmp = Probe::Icmp { address: V4 };
    let (sender, mut events) = mpsc::channel(1);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    let two = health(vec![icmp.clone(), icmp]);
    probers.set(&[fiber(&two)]);
    sent(&mut events, "t1").await;
    let one = Health { targets: two.targets[..1].to_vec(), ..two };
    probers.set(&[fiber(&one)]);
    // Those of t1 that were under way are here before so many of t0.
    for _ in 0..5 {
        sent(&mut events, "t0").await;
    }
    for _ in 0..10 {
        assert_eq!(&*next(&mut events).await.target, "t0");
    }
    drop(probers);
    while timeout(LONG, events.recv()).await.expect("the end of all probers").is_some() {}
}

#[tokio::test]
async fn a_device_that_is_not_there_is_told() {
    let health = health(vec![Probe::Icmp { address: V4 }]);
    let (sender, mut events) = mpsc::channel(1);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    let binding = Binding { device: "weir-none".into(), ..lo() };
    probers.set(&[ProbedUplink { binding, ..fiber(&health) }]);
    // It has not left.
    assert_eq!(next(&mut events).await.finding, Finding::Failed(ProbeError::Local(19)));
}

#[tokio::test]
async fn an_uplinks_pings_are_told_apart_on_one_socket() {
    let pinger = Pinger::new(lo());
    let silent = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    let mut answers = Vec::new();
    for last in 1..=100 {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        answers.push(pinger.ask(address, u64::from(last), Arc::default()).await.unwrap());
    }
    let unanswered = pinger.ask(silent, 7, Arc::default()).await;
    for answer in answers {
        assert_eq!(timeout(LONG, answer).await, Ok(Ok(())));
    }
    if let Ok(answer) = unanswered {
        assert!(timeout(Duration::from_millis(50), answer).await.is_err());
    }
}

/// Runs a future on a thread with a network namespace of its own, which has `lo` alone.
fn in_namespace<T: Send>(body: impl AsyncFnOnce() -> T + Send) -> T {
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace needs root: run as root");
        uplinks::run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body())
    };
    std::thread::scope(|scope| scope.spawn(alone).join()).unwrap()
}

#[test]
fn an_answer_that_this_machine_drops_is_told_from_silence() {
    in_namespace(async || {
        let listener = TcpListener::bind((V4, 0)).await.unwrap();
        let open = listener.local_addr().unwrap();
        let server = name_server_on(53, Rcode::NOERROR).await;
        // What comes back; the questions pass.
        uplinks::run(
            "nft add table ip strict; add chain ip strict input \
             { type filter hook input priority 0; }; \
             add rule ip strict input icmp type echo-reply drop; \
             add rule ip strict input tcp flags & (ack | rst) != 0 drop; \
             add rule ip strict input udp sport 53 drop",
        );
        let probes = [
            Probe::Icmp { address: V4 },
            Probe::Tcp { address: open },
            Probe::Tcp { address: closed().await },
            http(open, None, None),
            dns(server),
        ];
        let sniffer = Arc::new(Sniffer::default());
        sniffer.listen(true);
        for probe in probes {
            let told = ask_beside(probe.clone(), Trust::default(), Arc::clone(&sniffer)).await;
            assert_eq!(told, Err(ProbeError::Dropped), "{probe:?}");
        }
        uplinks::run("nft delete table ip strict");
    });
}

/// Servers that never answer: each probe has a socket until its timeout.
#[tokio::test]
async fn probes_beyond_an_uplinks_share_of_sockets_wait_and_say_so() {
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(UdpSocket::bind((V4, 0)).await.unwrap());
    }
    let kinds = silent.iter().map(|socket| dns(socket.local_addr().unwrap())).collect();
    let crowded = Health { timeout_ms: Some(60_000), ..health(kinds) };
    let (sender, mut events) = mpsc::channel(1);
    let mut probers = Probers::new(sender, Trust::default(), 1);
    probers.set(&[fiber(&crowded)]);
    let (mut left, mut waits) = (0, 0);
    while waits < 16 {
        match next(&mut events).await.finding {
            Finding::Sent => left += 1,
            Finding::Failed(ProbeError::Crowded) => waits += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(left <= 256, "{left}");
    // Another uplink has a share of its own.
    let other = health(vec![dns(silent[0].local_addr().unwrap())]);
    probers.set(&[fiber(&crowded), ProbedUplink { name: "cable", ..fiber(&other) }]);
    while &*next(&mut events).await.uplink != "cable" {}
}
