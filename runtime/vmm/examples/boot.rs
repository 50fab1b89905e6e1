//! bring-up driver
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use trine_link::Link;
use trine_vmm::protocol::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (link, child) = Link::pair().unwrap();
    let mut vmm = Command::new(&args[1]).stdin(Stdio::from(child)).spawn().unwrap();
    let kernel: OwnedFd = std::fs::File::open(&args[2]).unwrap().into();
    let image: OwnedFd = std::fs::File::open(&args[3]).unwrap().into();
    let window = rustix::fs::memfd_create("window", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&window, trine_abi::window::WINDOW_BYTES).unwrap();
    let e1 = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let e2 = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let req = BootRequest { id: "x".into(), memory_bytes: 64 << 20, vcpus: 1, images: 1 };
    let t = std::time::Instant::now();
    link.send(
        BOOT,
        &serde_json::to_vec(&req).unwrap(),
        &[kernel.as_fd(), window.as_fd(), e1.as_fd(), e2.as_fd(), image.as_fd()],
    )
    .unwrap();
    while let Ok(Some(m)) = link.receive() {
        match m.kind {
            NOTICE => println!("{:?} {}", t.elapsed(), String::from_utf8_lossy(&m.payload)),
            EVENT => {
                println!("{:?} {:?}", t.elapsed(), trine_abi::control::Event::decode(&m.payload))
            }
            _ => println!("?"),
        }
    }
    println!("{:?}", vmm.wait());
}
