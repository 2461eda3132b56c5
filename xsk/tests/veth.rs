//! Real sockets on a real device: a veth pair of each test's own. Needs root.

use std::process::Command;

use weir_xsk::{BindMode, Binder, Error, Socket, SocketConfig, Umem, UmemConfig};

/// A pair of connected devices, removed at the end.
struct Veth {
    name: String,
}

impl Veth {
    fn new(test: &str) -> Self {
        let name = format!("wx{}{test}", std::process::id() % 100_000);
        let veth = Self { name };
        let (a, b) = (veth.end('a'), veth.end('b'));
        ip(&["link", "add", &a, "type", "veth", "peer", "name", &b]);
        for end in [&a, &b] {
            ip(&["link", "set", end, "addrgenmode", "none", "up"]);
        }
        veth
    }

    fn end(&self, end: char) -> String {
        format!("{}{end}", self.name)
    }

    fn number(&self, end: char, file: &str) -> u64 {
        let path = format!("/sys/class/net/{}/{file}", self.end(end));
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    fn config(&self, end: char) -> SocketConfig {
        let ifindex = self.number(end, "ifindex") as u32;
        SocketConfig { ifindex, queue: 0, ring_size: 64, mode: BindMode::Copy }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        ip(&["link", "del", &self.end('a')]);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("these tests need iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "these tests need root: ip {arguments:?}: {error}");
}

fn umem() -> Umem {
    Umem::new(UmemConfig { frames: 512, frame_size: 2048, huge_pages: true }).unwrap()
}

/// Opens a socket and binds it, as soon as the queue's last owner is torn down, which the kernel
/// does after `close` returns.
fn bind<'u>(
    umem: &'u Umem,
    config: SocketConfig,
    shared: Option<&Binder>,
) -> Result<(Socket<'u>, Binder), Error> {
    let (mut socket, mut binder) = Socket::open(umem, config)?;
    for _ in 0..1500 {
        match binder.bind(shared) {
            Err(error) if error.is_busy() => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            bound => {
                socket.set_zero_copy(bound?);
                return Ok((socket, binder));
            }
        }
    }
    panic!("the queue stays busy");
}

/// Sends `count` frames and waits until the kernel has returned them all.
fn send<'u>(umem: &'u Umem, socket: &mut Socket<'u>, count: usize) {
    let mut sent = 0;
    while sent < count {
        let mut frame = umem.alloc().unwrap();
        assert!(frame.set_data(&[0xaa; 60]));
        if socket.transmit(frame).is_ok() {
            sent += 1;
        } else {
            socket.flush().unwrap();
            socket.complete();
        }
    }
    for _ in 0..30_000 {
        socket.flush().unwrap();
        socket.complete();
        if socket.in_flight().1 == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("frames were never completed: {:?}", socket.in_flight());
}

#[test]
fn what_is_sent_arrives_and_every_frame_comes_back() {
    let veth = Veth::new("s");
    let umem = umem();
    let (mut socket, _binder) = bind(&umem, veth.config('a'), None).unwrap();
    assert!(!socket.zero_copy(), "copy mode was asked for, and is read back");
    assert_eq!(socket.in_flight(), (64, 0), "the fill ring is full before the bind");
    let before = veth.number('b', "statistics/rx_packets");
    send(&umem, &mut socket, 200);
    assert_eq!(veth.number('b', "statistics/rx_packets") - before, 200);
    assert_eq!((socket.completed(), socket.corrupt()), (200, 0));
    assert_eq!(umem.free_frames() + socket.in_flight().0, umem.frames());
}

#[test]
fn a_umem_is_shared_by_sockets_of_two_devices() {
    let (one, two) = (Veth::new("p"), Veth::new("q"));
    let umem = umem();
    let (mut first, binder) = bind(&umem, one.config('a'), None).unwrap();
    let (mut second, _binder) = bind(&umem, two.config('a'), Some(&binder)).unwrap();
    send(&umem, &mut first, 100);
    send(&umem, &mut second, 100);
    assert_eq!(umem.free_frames() + 128, umem.frames());
}

#[test]
fn a_queue_can_be_bound_again_after_its_socket_is_dropped() {
    let veth = Veth::new("r");
    for _ in 0..3 {
        let umem = umem();
        let (socket, binder) = bind(&umem, veth.config('a'), None).unwrap();
        drop(socket);
        drop(binder);
        assert_eq!(umem.forfeited(), 64, "what the kernel may still write to stays out of use");
        assert_eq!(umem.free_frames() + umem.forfeited(), umem.frames());
    }
}

#[test]
fn a_socket_that_is_closed_and_let_go_gives_every_frame_back() {
    let veth = Veth::new("c");
    let umem = umem();
    for _ in 0..3 {
        let (mut socket, binder) = bind(&umem, veth.config('a'), None).unwrap();
        send(&umem, &mut socket, 100);
        let lease = socket.close().unwrap();
        assert_eq!((umem.free_frames(), umem.forfeited()), (umem.frames() - 64, 64));
        drop(binder);
        lease.reclaim();
        assert_eq!((umem.free_frames(), umem.forfeited()), (umem.frames(), 0));
    }
}

#[test]
fn a_socket_learns_that_its_device_is_gone_and_the_others_go_on() {
    let (one, two) = (Veth::new("g"), Veth::new("h"));
    let umem = umem();
    let (first, binder) = bind(&umem, one.config('a'), None).unwrap();
    let (mut second, other) = bind(&umem, two.config('a'), Some(&binder)).unwrap();
    assert!(!binder.is_dead() && !other.is_dead());
    ip(&["link", "del", &one.end('a')]);
    assert!(binder.is_dead() && !other.is_dead());
    assert!(binder.is_dead(), "and remains so");
    let lease = first.close().unwrap();
    drop(binder);
    lease.reclaim();
    send(&umem, &mut second, 100);
    assert_eq!(umem.free_frames() + 64, umem.frames());
    ip(&["link", "add", &one.end('a'), "type", "veth", "peer", "name", &one.end('b')]);
    let (_third, again) = bind(&umem, one.config('a'), Some(&other)).unwrap();
    assert!(!again.is_dead());
}

#[test]
fn a_queue_that_is_not_there_is_refused_with_its_number() {
    let veth = Veth::new("n");
    let umem = umem();
    let config = SocketConfig { queue: 7, ..veth.config('a') };
    let error = bind(&umem, config, None).unwrap_err().to_string();
    assert!(
        error.contains("queue 7") && error.contains("does the interface have that queue"),
        "{error}"
    );
}

#[test]
fn frames_of_another_umem_are_given_back() {
    let veth = Veth::new("o");
    let (umem, other) = (umem(), umem());
    let (mut socket, _binder) = bind(&umem, veth.config('a'), None).unwrap();
    let frame = other.alloc().unwrap();
    assert!(socket.transmit(frame).is_err());
    assert_eq!(other.free_frames(), other.frames());
}
