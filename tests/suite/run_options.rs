//! What the image and the options of `create` and `run` make of the process and of what it sees.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::harness::store::names_in;
use crate::harness::{Store, text};
use crate::run_support::{SHELL, check_ended, exit_code, inspect, run, shell, store, wait_for_log};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";

/// Entry point, arguments, variables, directory, user and stop signal come from the image's config;
/// each can be said anew.
pub fn the_images_own() {
    let store = Store::new();
    let image = shell(&["full:1"])
        .config("Entrypoint", json!(["/bin/echo", "E"]))
        .config("Cmd", json!(["c1", "c2"]))
        .config("Env", json!(["FOO=bar", "BAZ=q x"]))
        .config("WorkingDir", json!("/data"))
        .config("User", json!("app"))
        .config("StopSignal", json!("SIGINT"));
    store.load(&image);
    let run = |options: &[&str], rest: &[&str]| {
        let options = [
            &["run", "--rm", "--network", "none", "--hostname", "box"],
            options,
        ];
        store.run(&[&options.concat(), &["full:1"][..], rest].concat())
    };
    run(&[], &[]).expect(0, "E c1 c2\n", "");
    run(&[], &["x", "-y"]).expect(0, "E x -y\n", "");
    run(&["--entrypoint", "/bin/echo"], &[]).expect(0, "\n", "");
    run(&["--entrypoint", "echo"], &["z"]).expect(0, "z\n", "");
    run(&["--entrypoint", ""], &["pwd"]).expect(0, "/data\n", "");
    run(&["--entrypoint", "pwd", "-w", "/etc"], &[]).expect(0, "/etc\n", "");
    run(&["--entrypoint", "id", "-u", "0"], &[]).expect(
        0,
        "uid=0(root) gid=0(root) groups=0(root)\n",
        "",
    );
    let own = format!("{PATH}HOSTNAME=box\nFOO=bar\nBAZ=q x\nHOME=/home/app\n");
    run(&["--entrypoint", "env"], &[]).expect(0, &own, "");
    // One that the caller does not have goes; one that is set anew keeps its place.
    let changed = format!("{PATH}HOSTNAME=box\nBAZ=new\nHOME=/home/app\n");
    run(&["--entrypoint", "env", "-eFOO", "-e", "BAZ=new"], &[]).expect(0, &changed, "");
    // The signal that stops it.
    let script = "trap 'echo INT; exit 42' INT; trap 'exit 43' TERM; trap 'exit 44' USR1; echo up; \
        while :; do sleep 1000 & wait; done";
    for (options, code) in [(&[][..], 42), (&["--stop-signal", "USR1"], 44)] {
        let args = [&["run", "-d", "--name", "job", "--entrypoint", ""], options];
        store.ok(&[&args.concat()[..], &["full:1", "sh", "-c", script]].concat());
        wait_for_log(&store, "job", "up");
        store.ok(&["stop", "job"]);
        assert_eq!(exit_code(&store, "job"), code);
        store.ok(&["rm", "job"]);
    }
    // A config that names no program, and one whose arguments are one.
    store.load(&shell(&["args:1"]).config("Cmd", json!(["pwd"])));
    store.run(&["run", "--rm", "args:1"]).expect(0, "/\n", "");
}

/// Variables of the options and the caller, over the defaults.
pub fn environment() {
    let store = store();
    let env = |options: &[&str]| {
        let args = [
            &["run", "--rm", "--hostname", "box"],
            options,
            &[SHELL, "env"],
        ]
        .concat();
        let mut command = store.command(&args);
        command
            .env_remove("C")
            .env("HOME", "/caller")
            .env("D", "of the caller");
        let run = crate::harness::Run::of(&mut command);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        run.stdout
    };
    let plain = format!("{PATH}HOSTNAME=box\n");
    assert_eq!(env(&[]), format!("{plain}HOME=/root\n"));
    assert_eq!(
        env(&["-e", "A=b", "-e", "HOME", "-e", "C", "-e", "D"]),
        format!("{plain}A=b\nHOME=/caller\nD=of the caller\n")
    );
    assert_eq!(
        env(&["-e", "A=1", "-e", "A=2", "-e", "B=", "-e", "A B=c d"]),
        format!("{plain}A=2\nB=\nA B=c d\nHOME=/root\n")
    );
    assert_eq!(
        env(&["-e", "PATH=/bin", "-e", "HOSTNAME=zz", "-e", "TERM=q"]),
        "PATH=/bin\nHOSTNAME=zz\nTERM=q\nHOME=/root\n"
    );
    assert_eq!(env(&["-u", "app"]), format!("{plain}HOME=/home/app\n"));
    // What is asked of `env` itself: the name of a terminal.
    let run = run(&store, &["--rm", "-t"], "echo $TERM");
    run.expect(0, "xterm\r\n", "");
}

/// Users and groups by name and number, of the image's files; what they may do.
pub fn users() {
    let store = store();
    let script =
        "id; echo HOME=$HOME; grep -E '^(Groups|Cap(Prm|Eff|Bnd)|NoNew)' /proc/self/status";
    const ALL: &str = "00000000a80425fb";
    const NONE: &str = "0000000000000000";
    let root = "uid=0(root) gid=0(root) groups=0(root)";
    let app = "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)";
    for (user, id, groups, home, capabilities) in [
        ("", root, "0", "/root", ALL),
        ("root", root, "0", "/root", ALL),
        ("app", app, "1000 2000", "/home/app", NONE),
        ("1000", app, "1000 2000", "/home/app", NONE),
        (
            "app:extra",
            "uid=1000(app) gid=2000(extra) groups=2000(extra)",
            "2000",
            "/home/app",
            NONE,
        ),
        (
            "1000:1234",
            "uid=1000(app) gid=1234 groups=1234",
            "1234",
            "/home/app",
            NONE,
        ),
        (
            "4242",
            "uid=4242 gid=0(root) groups=0(root)",
            "0",
            "/",
            NONE,
        ),
        (
            ":app",
            "uid=0(root) gid=1000(app) groups=1000(app)",
            "1000",
            "/root",
            ALL,
        ),
    ] {
        let said = format!(
            "{id}\nHOME={home}\nGroups:\t{groups} \nCapPrm:\t{capabilities}\nCapEff:\t{capabilities}\n\
             CapBnd:\t{ALL}\nNoNewPrivs:\t0\n"
        );
        let ran = run(&store, &["--rm", "-u", user], script);
        assert_eq!(ran.stdout, said, "{user:?}");
        ran.ok();
    }
    // What the container itself wrote to its files counts, for `exec` and the next start.
    store.ok(&[
        "create",
        "--name",
        "job",
        "-u",
        "late",
        SHELL,
        "sh",
        "-c",
        "id -u; sleep 1000",
    ]);
    store
        .run(&["start", "job"])
        .refused_saying(&["unable to find user late: no matching entries in passwd file"]);
    let view = store.mount("job");
    let passwd = view.join("etc/passwd");
    let users = fs::read_to_string(&passwd).unwrap() + "late:x:77:77::/data:/bin/sh\n";
    fs::write(passwd, users).unwrap();
    store.ok(&["umount", "job"]);
    store.ok(&["start", "job"]);
    wait_for_log(&store, "job", "77");
    store
        .run(&["exec", "job", "id", "-u"])
        .expect(0, "77\n", "");
    store
        .run(&["exec", "-u", "app", "job", "id", "-un"])
        .expect(0, "app\n", "");
}

/// Where the process begins; the directory is made where it is missing.
pub fn working_directories() {
    let store = store();
    let dir = |options: &[&str]| {
        run(
            &store,
            &[&["--rm"], options].concat(),
            "pwd; stat -c '%u %a' .",
        )
    };
    dir(&[]).expect(0, "/\n0 755\n", "");
    dir(&["-w", ""]).expect(0, "/\n0 755\n", "");
    dir(&["-w", "/new/deep"]).expect(0, "/new/deep\n0 755\n", "");
    dir(&["-u", "app", "-w", "/new/deep"]).expect(0, "/new/deep\n0 755\n", "");
    dir(&["-w", "/data/../etc/./"]).expect(0, "/etc\n0 755\n", "");
    let ran = dir(&["-w", "/etc/passwd"]);
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("/etc/passwd"), "{ran:?}");
}

/// Directories and files of the host, to read or to write; what they need in the container is made.
pub fn binds() {
    let store = store();
    let host = store.new_dir("host");
    fs::write(host.join("file"), "of the host\n").unwrap();
    let source = host.to_str().unwrap();
    let bind = |to: &str| format!("{source}{to}");
    let rw = bind(":/m");
    run(
        &store,
        &["--rm", "-v", &rw],
        "cat /m/file; echo new >/m/made; echo more >>/m/file",
    )
    .expect(0, "of the host\n", "");
    assert_eq!(fs::read_to_string(host.join("made")).unwrap(), "new\n");
    assert_eq!(
        fs::read_to_string(host.join("file")).unwrap(),
        "of the host\nmore\n"
    );
    let ro = bind(":/m:ro");
    run(&store, &["--rm", "-v", &ro], "cat /m/made; touch /m/x").expect(
        1,
        "new\n",
        "touch: /m/x: Read-only file system\n",
    );
    assert!(!host.join("x").exists());
    // A file over a file, in a place that is not there, over what is the container's own, and a
    // directory within another, in whatever order.
    let file = |to: &str| bind(&format!("/made:{to}"));
    let (passwd, deep, hosts) = (
        file("/etc/passwd"),
        file("/not/there/file"),
        file("/etc/hosts"),
    );
    let (inner, outer) = (bind(":/out/in"), bind(":/out"));
    fs::create_dir(host.join("in")).unwrap();
    run(
        &store,
        &[
            "--rm", "-v", &passwd, "-v", &deep, "-v", &hosts, "-v", &inner, "-v", &outer,
        ],
        "cat /etc/passwd /not/there/file /etc/hosts /out/in/made /out/made",
    )
    .expect(0, "new\nnew\nnew\nnew\nnew\n", "");
    // A file over a directory is the runtime's to refuse.
    let wrong = file("/data");
    let ran = run(&store, &["--rm", "-v", &wrong], "true");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{ran:?}");
    assert!(ran.stderr.contains("not a directory"), "{ran:?}");
    // What vanishes after the creation is refused at the start, and is found again when it is there.
    let late = store.new_dir("late");
    let late_bind = format!("{}:/late", late.display());
    store.ok(&[
        "create", "--name", "job", "-v", &late_bind, SHELL, "ls", "/late",
    ]);
    fs::remove_dir(&late).unwrap();
    store
        .run(&["start", "-a", "job"])
        .refused_saying(&["bind source path does not exist"]);
    let id = text(&inspect(&store, "job"), "Id");
    check_ended(&store, &[&id]);
    fs::create_dir(&late).unwrap();
    fs::write(late.join("here"), "").unwrap();
    store.run(&["start", "-a", "job"]).expect(0, "here\n", "");
    // It is the host's files that are seen, not copies of them: nothing of them is in the store.
    let upper = store.root().join("containers").join(&id).join("upper");
    assert_eq!(names_in(&upper.join("late")), Vec::<String>::new());
    let mounts = inspect(&store, "job")["Mounts"].clone();
    assert_eq!(
        mounts,
        json!([{"Type": "bind", "Source": late, "Destination": "/late", "RW": true}])
    );
}

/// Nothing in its root can be written, but what is mounted there.
pub fn a_read_only_root() {
    let store = store();
    let host = store.new_dir("host");
    let bind = format!("{}:/m", host.display());
    run(
        &store,
        &["--rm", "--read-only", "-v", &bind],
        "touch /x; touch /tmp/x; touch /etc/hosts; touch /data/one; touch /dev/shm/x && echo shm; \
         touch /m/x && echo bind",
    )
    .expect(
        0,
        "shm\nbind\n",
        "touch: /x: Read-only file system\ntouch: /tmp/x: Read-only file system\n\
         touch: /etc/hosts: Read-only file system\ntouch: /data/one: Read-only file system\n",
    );
    assert!(host.join("x").exists());
    // Without it all of this works, and is kept.
    run(
        &store,
        &["--name", "job"],
        "touch /x /tmp/x /data/one; echo '# x' >>/etc/hosts",
    )
    .expect(0, "", "");
    let view = store.mount("job");
    assert!(view.join("tmp/x").exists());
}

/// The names of its machine, and its network: the host's, or none.
pub fn names_and_networks() {
    let store = store();
    let script = "hostname; cat /etc/hostname; echo -; cat /etc/hosts; echo -; cat /etc/resolv.conf; \
        echo -; tail -n +3 /proc/net/dev | while read name rest; do echo $name; done";
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let resolv = host("/etc/resolv.conf");
    let uname = rustix::system::uname();
    let nodename = uname.nodename().to_str().unwrap();
    let devices: String = host("/proc/net/dev")
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| format!("{name}\n"))
        .collect();
    let hosts = host("/etc/hosts");
    let of_the_host = format!("{nodename}\n{nodename}\n-\n{hosts}-\n{resolv}-\n{devices}");
    for options in [
        &["--rm"][..],
        &["--rm", "--network", "host"],
        &["--rm", "--net=host"],
    ] {
        run(&store, options, script).expect(0, &of_the_host, "");
    }
    let alone = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\t\
        ip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    run(&store, &["--name", "job", "--network", "none"], script).ok();
    let short = text(&inspect(&store, "job"), "Id")[..12].to_owned();
    let said = store.ok(&["logs", "job"]);
    assert_eq!(
        said,
        format!("{short}\n{short}\n-\n{alone}-\n{resolv}-\nlo:\n")
    );
    let own = format!("my.box\nmy.box\n-\n{alone}-\n{resolv}-\nlo:\n");
    run(
        &store,
        &["--rm", "--network", "none", "--hostname", "my.box"],
        script,
    )
    .expect(0, &own, "");
    // What it calls its machine is not what the host is called.
    let change = "hostname other; hostname";
    let ran = run(&store, &["--rm", "--network", "none"], change);
    assert_eq!(ran.code, Some(0));
    assert_eq!(rustix::system::uname().nodename(), uname.nodename());
}

/// What is mounted in it, which devices it has, what is hidden and what is not its to change: as Docker's.
pub fn proc_dev_and_sys() {
    let store = store();
    let table = store.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        SHELL,
        "cat",
        "/proc/mounts",
    ]);
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split(' ').collect()).collect();
    for (place, kind, options) in [
        ("/", "fuse.layerctl", &["rw"][..]),
        ("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"]),
        (
            "/dev",
            "tmpfs",
            &["rw", "nosuid", "size=65536k", "mode=755"],
        ),
        (
            "/dev/pts",
            "devpts",
            &[
                "rw",
                "nosuid",
                "noexec",
                "gid=5",
                "mode=620",
                "ptmxmode=666",
            ],
        ),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        (
            "/dev/mqueue",
            "mqueue",
            &["rw", "nosuid", "nodev", "noexec"],
        ),
        (
            "/dev/shm",
            "tmpfs",
            &["rw", "nosuid", "nodev", "noexec", "size=65536k"],
        ),
        ("/proc/bus", "proc", &["ro"]),
        ("/proc/fs", "proc", &["ro"]),
        ("/proc/irq", "proc", &["ro"]),
        ("/proc/sys", "proc", &["ro"]),
        ("/sys/firmware", "tmpfs", &["ro"]),
    ] {
        let line = lines.iter().find(|line| line[1] == place);
        let line = line.unwrap_or_else(|| panic!("{place} is mounted in {table}"));
        assert_eq!(line[2], kind, "{line:?}");
        let has: Vec<&str> = line[3].split(',').collect();
        for option in options {
            assert!(has.contains(option), "{option} of {line:?}");
        }
    }
    let named = |name: &str| lines.iter().any(|line| line[1] == name);
    assert!(named("/etc/hosts") && named("/etc/hostname") && named("/etc/resolv.conf"));
    // Nothing of the host is left to be seen.
    let store_path = store.root().to_str().unwrap();
    assert!(
        !lines.iter().any(|line| line[1].starts_with(store_path)),
        "{table}"
    );

    let dev = "cd /dev; for f in *; do [ -L $f ] && echo $f \"->\" $(readlink $f) || stat -c '%n %F %a %t,%T' $f; done";
    run(&store, &["--rm"], dev).expect(
        0,
        "fd -> /proc/self/fd\nfull character special file 666 1,7\n\
         mqueue directory 1777 0,0\nnull character special file 666 1,3\nptmx -> pts/ptmx\n\
         pts directory 755 0,0\nrandom character special file 666 1,8\nshm directory 1777 0,0\n\
         stderr -> /proc/self/fd/2\nstdin -> /proc/self/fd/0\nstdout -> /proc/self/fd/1\n\
         tty character special file 666 5,0\nurandom character special file 666 1,9\n\
         zero character special file 666 1,5\n",
        "",
    );
    // Its own processes only; itself first.
    run(&store, &["--rm"], "echo $$; cd /proc; echo [0-9]*").expect(0, "1\n1\n", "");
    let hidden = "cat /proc/keys /proc/timer_list; ls /sys/firmware; \
        echo 1 >/proc/sys/kernel/panic; \
        mknod /tmp/disk b 7 0 && cat /tmp/disk; mknod /tmp/zero c 1 5 && head -c1 /tmp/zero | wc -c; \
        mount -t tmpfs tmpfs /tmp; hostname x 2>&1 | grep -c .";
    let ran = run(&store, &["--rm"], hidden);
    assert_eq!(ran.stdout, "1\n1\n", "{ran:?}");
    for refused in [
        "/proc/sys/kernel/panic: Read-only file system",
        "'/tmp/disk': Operation not permitted",
        "mount: permission denied",
    ] {
        assert!(ran.stderr.contains(refused), "{refused} in {}", ran.stderr);
    }
    // In the host's cgroups it has one of its own.
    let ran = run(&store, &["--name", "job"], "cat /proc/self/cgroup");
    let id = text(&inspect(&store, "job"), "Id");
    assert!(
        ran.stdout
            .lines()
            .all(|l| l.contains(&format!("/layerctl-{id}")) || l.ends_with(":/")),
        "{ran:?}"
    );
}

/// `create` takes what `run` takes; `start` is the rest.
pub fn create_and_start() {
    let store = store();
    let host = store.new_dir("host");
    let bind = format!("{}:/m:ro", host.display());
    let script = "echo $A $(pwd) $(id -un); cat; touch /m/x; exit 6";
    let args = [
        "create",
        "--name",
        "job",
        "-i",
        "-e",
        "A=b",
        "-w",
        "/data",
        "-u",
        "app",
        "-v",
        &bind,
        "--network",
        "none",
        "--stop-signal",
        "USR2",
        SHELL,
        "sh",
        "-c",
        script,
    ];
    let id = store.ok(&args);
    let id = id.trim_end();
    let shown = inspect(&store, "job");
    let config = &shown["Config"];
    assert_eq!(text(&shown["State"], "Status"), "created");
    assert_eq!(config["Env"], json!(["A=b"]));
    assert_eq!(
        [
            &config["WorkingDir"],
            &config["User"],
            &config["StopSignal"],
            &config["Image"]
        ],
        ["/data", "app", "USR2", SHELL]
    );
    assert_eq!(config["OpenStdin"], true);
    assert_eq!(config["Tty"], false);
    assert_eq!(config["Cmd"], json!(["sh", "-c", script]));
    assert_eq!(shown["Path"], "sh");
    assert_eq!(shown["HostConfig"]["Binds"], json!([bind]));
    assert_eq!(shown["HostConfig"]["NetworkMode"], "none");
    let input = store.beside("input");
    fs::write(&input, "typed\n").unwrap();
    let mut command = store.command(&["start", "-ai", "job"]);
    let started = command
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert_eq!(started.status.code(), Some(6));
    assert_eq!(
        String::from_utf8_lossy(&started.stdout),
        "b /data app\ntyped\n"
    );
    assert_eq!(
        String::from_utf8_lossy(&started.stderr),
        "touch: /m/x: Read-only file system\n"
    );
    // `-a` alone passes no input on, so it reads till somebody ends it; what it wrote comes after what
    // it wrote before.
    store.run(&["start", "job"]).expect(0, "job\n", "");
    store.run(&["start", "job"]).expect(0, "job\n", "");
    assert_eq!(store.container_state(id), "running");
    crate::harness::wait_until("it has written", || {
        store.ok(&["logs", "job"]) == "b /data app\ntyped\nb /data app\n"
    });
    store.run(&["kill", "job"]).expect(0, "job\n", "");
    assert_eq!(exit_code(&store, "job"), 137);
    // Several at once, of which one is not there.
    store.ok(&["create", "--name", "other", SHELL, "true"]);
    let ran = store.run(&["start", "other", "nosuch", "job"]);
    ran.expect(1, "other\njob\n", "Error: No such container: nosuch\n");
    store.run(&["start", "-a", "other", "job"]).expect(
        1,
        "",
        "Error: you cannot start and attach multiple containers at once\n",
    );
    store.ok(&["rm", "-f", "other", "job"]);
    // Files of a container keep their owner.
    run(
        &store,
        &["--name", "owner", "-u", "app"],
        "echo x >/tmp/mine",
    )
    .expect(0, "", "");
    let view = store.mount("owner");
    assert_eq!(view.join("tmp/mine").metadata().unwrap().uid(), 1000);
}
