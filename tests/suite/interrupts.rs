//! Ctrl-C and SIGTERM: what was begun is undone, what others use is left to them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::bad_input::state;
use crate::harness::store::is_mounted;
use crate::harness::{Archive, Image, Layer, Run, Store, text, wait_until};
use crate::run_support::Terminal;
use crate::samples::{app, check_app};

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Waits till the process has a handler for SIGINT: one that comes earlier just kills it.
#[track_caller]
fn wait_for_handler(pid: u32) {
    wait_until("SIGINT is caught", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:\t"));
        let caught = u64::from_str_radix(caught.expect("a mask"), 16).unwrap();
        caught & (1 << (Signal::INT.as_raw() - 1)) != 0
    });
}

/// A tar with one member of this size, its data still to come.
fn member(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn start(store: &Store, args: &[&str]) -> Child {
    let mut command = store.command(args);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Interrupted while its archive still comes.
pub fn a_load_from_a_pipe() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let mut load = start(&store, &["load"]);
    let mut archive = load.stdin.take().unwrap();
    archive
        .write_all(member("endless", 1 << 40).as_bytes())
        .unwrap();
    wait_for_handler(load.id());
    send(load.id(), Signal::INT);
    // Without an end; a load that does not give up has this much to get over with.
    let limit = 256;
    let written = (0..limit).take_while(|_| archive.write_all(&[0; 1 << 20]).is_ok());
    assert!(written.count() < limit, "the load reads on");
    drop(archive);
    Run::finish(load, "load".to_owned()).expect(130, "", "");
    assert_eq!(state(&store), before);
    store.check_at_rest();
}

/// Interrupted while whoever writes its archive has stopped, with the pipe open.
pub fn a_load_from_a_stalled_pipe() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let (archive, _) = Archive::of(&app(&["other:1"]));
    let bytes = archive.bytes();
    for (signal, written) in [
        (Signal::INT, 0),
        (Signal::TERM, 100),
        (Signal::INT, 700),
        (Signal::TERM, bytes.len() / 2),
    ] {
        let mut load = start(&store, &["load"]);
        let mut pipe = load.stdin.take().unwrap();
        pipe.write_all(&bytes[..written]).unwrap();
        wait_for_handler(load.id());
        ends_at_once(load, signal);
        drop(pipe);
        assert_eq!(state(&store), before, "after {written} bytes");
    }
    store.check_at_rest();
}

/// Interrupted while nobody writes to the pipe that its archive is to come from; else it is waited for.
pub fn a_load_from_a_named_pipe() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let pipe = store.beside("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let args = ["load", "-i", pipe.to_str().unwrap()];
    for signal in [Signal::INT, Signal::TERM] {
        let load = start(&store, &args);
        wait_for_handler(load.id());
        ends_at_once(load, signal);
        assert_eq!(state(&store), before);
    }
    let load = start(&store, &args);
    wait_for_handler(load.id());
    std::thread::sleep(Duration::from_millis(100));
    let (archive, _) = Archive::of(&app(&["other:1"]));
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    let bytes = archive.bytes();
    writer.write_all(&bytes[..700]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    writer.write_all(&bytes[700..]).unwrap();
    drop(writer);
    Run::finish(load, "load".to_owned()).expect(0, "Loaded image: other:1\n", "");
    store.check_at_rest();
}

#[track_caller]
fn ends_at_once(load: Child, signal: Signal) {
    let begin = Instant::now();
    send(load.id(), signal);
    Run::finish(load, "load".to_owned()).expect(130, "", "");
    assert!(begin.elapsed() < Duration::from_secs(10), "at once");
}

/// Ctrl-C on a terminal: what was drawn there is gone.
pub fn a_load_on_a_terminal() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let pipe = store.beside("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut terminal = Terminal::run(&store, &["load", "-i", pipe.to_str().unwrap()], (24, 80));
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    writer
        .write_all(member("endless", 1 << 40).as_bytes())
        .unwrap();
    writer.write_all(&[0; 1 << 20]).unwrap();
    terminal.wait_for("Reading the archive");
    terminal.keys("\x03");
    assert_eq!(terminal.finish(), Some(130));
    assert!(terminal.is_cooked());
    let seen = terminal.seen();
    assert!(
        seen.ends_with("\r\x1b[2K") || seen.ends_with("\x1b[2K\r"),
        "{seen:?}"
    );
    assert_eq!(state(&store), before);
    store.check_at_rest();
}

/// Interrupted while it unpacks: its first layer is complete, its second one grows.
pub fn a_load_that_unpacks() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let before = state(&store);
    let (mut archive, image) = Archive::of(&Image::new(
        &["big:1"],
        vec![
            Layer::new().dir("first"),
            Layer::new().file("replaced", "below"),
        ],
    ));
    // Hundreds of megabytes that compress to next to nothing; that they are not those of the
    // digest would come out at their end.
    let mut layer = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    let zeros = 512 << 20;
    let data = std::io::repeat(0).take(zeros);
    layer.append(&member("zeros", zeros), data).unwrap();
    let layer = layer.into_inner().unwrap().finish().unwrap();
    let name = format!("{}.tar", image.layer_dir(1));
    archive
        .members
        .iter_mut()
        .find(|(member, _)| *member == name)
        .unwrap()
        .1 = layer;
    let file = store.beside("big.tar");
    archive.write(&file);
    let load = start(&store, &["load", "-i", file.to_str().unwrap()]);
    let unpacked = || -> Option<PathBuf> {
        let staged = fs::read_dir(store.root().join("staging")).unwrap();
        let mut zeros = staged.map(|entry| entry.unwrap().path().join("tree/zeros"));
        zeros.find(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
    };
    wait_until("the second layer is being unpacked", || {
        unpacked().is_some()
    });
    send(load.id(), Signal::INT);
    Run::finish(load, "load".to_owned()).expect(130, "", "");
    assert_eq!(state(&store), before);
    store.check_at_rest();
}

/// The server of a view that is in use detaches it, and says so; it serves what is open to the end.
pub fn a_server_that_is_told_to_end() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let mut open = File::open(view.join("srv/index")).unwrap();
    store.ok(&["rmi", "-f", "app:1"]);
    let server = store.server();
    send(server.cast_unsigned(), Signal::TERM);
    wait_until("the view is detached", || !is_mounted(&view));
    wait_until("that it is detached is on record", || {
        text(&store.container(&container), "Status") == "Detached, held by open handles"
    });
    assert_eq!(store.server(), server);
    assert_eq!(text(&store.container(&container), "Mountpoint"), "");
    assert_eq!(store.layer_state(&image.chains[0]), "pending");
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "hello");
    drop(open);
    store.wait_for_servers_to_end();
    assert_eq!(store.container_state(&container), "exited");
    store.check_no_layers();
    store.check_at_rest();

    // Nobody uses it: then that is its end.
    store.load(&app(&["app:1"]));
    let view = store.mount(&container);
    check_app(&view);
    send(store.server().cast_unsigned(), Signal::TERM);
    store.wait_for_servers_to_end();
    assert!(!is_mounted(&view));
    store.check_at_rest();
}
