//! What the OCI runtime is told of a container: its `config.json`
//! ([OCI runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md)).
//! Pure. What a process sees of `/proc`, `/dev` and `/sys`, and its capabilities, are Docker's defaults.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::users::User;
use crate::model::Settings;
use crate::model::settings::{Network, set_env};

/// Docker's.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process with user ID 0 may do: Docker's defaults.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// What tells of the host's kernel or its devices.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A process to be run in a container.
#[derive(Debug, Clone)]
pub struct NewProcess {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, beside the defaults.
    pub env: Vec<String>,
    /// Absolute.
    pub directory: PathBuf,
    /// As whom.
    pub user: User,
    /// With a terminal.
    pub tty: bool,
}

/// What else there is to know of a container and of the machine.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// The view.
    pub root: &'a Path,
    /// Files that are put over those of the image: where they lie, and where they are seen.
    pub files: &'a [(PathBuf, &'static str)],
    /// The name of the machine, as the container sees it.
    pub hostname: &'a str,
    /// The name of its cgroup, below the root of each hierarchy.
    pub cgroup: &'a str,
    /// All controllers are of cgroup version 2.
    pub unified_cgroups: bool,
    /// Root is root of a user namespace only.
    pub in_user_namespace: bool,
    /// Soft and hard limit of open files: those of whoever started it.
    pub open_files: (u64, u64),
}

/// The `config.json` of a container.
///
/// # Errors
/// What the builders of the specification refuse: nothing, as it is filled here.
pub fn spec(
    settings: &Settings,
    process: &NewProcess,
    around: &Surroundings<'_>,
) -> Result<Spec, OciSpecError> {
    let root = RootBuilder::default()
        .path(around.root)
        .readonly(settings.read_only)
        .build()?;
    let resources = LinuxResourcesBuilder::default()
        .devices(devices()?)
        .build()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(settings, around)?)
        .resources(resources)
        .cgroups_path(PathBuf::from("/").join(around.cgroup))
        .masked_paths(MASKED.map(str::to_owned))
        .readonly_paths(READ_ONLY.map(str::to_owned))
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .hostname(around.hostname)
        .process(oci_process(
            process,
            around.hostname,
            Some(around.open_files),
        )?)
        .mounts(mounts(settings, around)?)
        .linux(linux)
        .build()
}

/// A process as the runtime takes it.
pub fn oci_process(
    new: &NewProcess,
    hostname: &str,
    open_files: Option<(u64, u64)>,
) -> Result<Process, OciSpecError> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    env.extend(new.tty.then(|| "TERM=xterm".to_owned()));
    set_env(&mut env, new.env.iter().cloned());
    let user = UserBuilder::default()
        .uid(new.user.uid)
        .gid(new.user.gid)
        .additional_gids(new.user.additional.clone())
        .build()?;
    let limits: Vec<PosixRlimit> = open_files
        .map(|(soft, hard)| {
            PosixRlimitBuilder::default()
                .typ(PosixRlimitType::RlimitNofile)
                .soft(soft)
                .hard(hard)
                .build()
        })
        .transpose()?
        .into_iter()
        .collect();
    let mut process = ProcessBuilder::default()
        .terminal(new.tty)
        .user(user)
        .args(new.args.clone())
        .env(env)
        .cwd(new.directory.clone())
        .capabilities(capabilities(new.user.uid)?)
        .no_new_privileges(false)
        .build()?;
    process.set_rlimits((!limits.is_empty()).then_some(limits));
    Ok(process)
}

/// All of them for root; for others, what they can get by set-user-ID programs.
fn capabilities(uid: u32) -> Result<LinuxCapabilities, OciSpecError> {
    let all: HashSet<Capability> = CAPABILITIES.into_iter().collect();
    let own = if uid == 0 {
        all.clone()
    } else {
        HashSet::new()
    };
    LinuxCapabilitiesBuilder::default()
        .bounding(all)
        .permitted(own.clone())
        .effective(own)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
}

fn namespaces(
    settings: &Settings,
    around: &Surroundings<'_>,
) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
    ];
    if settings.network == Network::None {
        kinds.push(LinuxNamespaceType::Network);
    }
    // As Docker: of version 1 the container sees where it is.
    if around.unified_cgroups {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let build = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    kinds.into_iter().map(build).collect()
}

/// Nothing but null, zero, full, random, urandom, tty, console; the runtime adds terminals.
fn devices() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let all = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()?;
    let mut rules = vec![all];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)] {
        rules.push(
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(LinuxDeviceType::C)
                .major(major)
                .minor(minor)
                .access("rwm")
                .build()?,
        );
    }
    Ok(rules)
}

fn mounts(settings: &Settings, around: &Surroundings<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = Vec::new();
    // That of the host's network belongs to the host's root: then it can only be shown as it is there.
    let sys = match (settings.network, around.in_user_namespace) {
        (Network::Host, true) => ("/sys", "bind", "/sys", "rbind,nosuid,noexec,nodev,ro"),
        _ => ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    };
    for (destination, kind, source, options) in [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        sys,
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "ro,nosuid,noexec,nodev",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=67108864",
        ),
    ] {
        mounts.push(mount(destination, kind, Path::new(source), options)?);
    }
    for (source, destination) in around.files {
        let is_hidden =
            |bind: &crate::model::settings::Bind| bind.destination == Path::new(destination);
        if settings.binds.iter().any(is_hidden) {
            continue;
        }
        let options = if settings.read_only {
            "rbind,rprivate,ro"
        } else {
            "rbind,rprivate"
        };
        mounts.push(mount(destination, "bind", source, options)?);
    }
    let mut binds: Vec<_> = settings.binds.iter().collect();
    // What lies in another comes after it, in whatever order they were given.
    binds.sort_by_key(|bind| bind.destination.components().count());
    for bind in binds {
        let options = if bind.read_only {
            "rbind,rprivate,ro"
        } else {
            "rbind,rprivate"
        };
        let destination = bind.destination.to_string_lossy();
        mounts.push(mount(&destination, "bind", &bind.source, options)?);
    }
    Ok(mounts)
}

fn mount(
    destination: &str,
    kind: &str,
    source: &Path,
    options: &str,
) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(settings: &Settings, user: User, tty: bool) -> Value {
        let process = NewProcess {
            args: settings.command(),
            env: settings.env.clone(),
            directory: settings.directory().to_owned(),
            user,
            tty,
        };
        let around = Surroundings {
            root: Path::new("/view"),
            files: &[("/run/hosts".into(), "/etc/hosts")],
            hostname: "box",
            cgroup: "layerctl-x",
            unified_cgroups: false,
            in_user_namespace: false,
            open_files: (1024, 4096),
        };
        serde_json::to_value(spec(settings, &process, &around).unwrap()).unwrap()
    }

    #[test]
    fn what_a_container_is_told() {
        let settings = Settings {
            entrypoint: vec!["/bin/sh".into()],
            cmd: vec!["-c".into(), "true".into()],
            env: vec!["A=1".into(), "PATH=/bin".into()],
            working_dir: "/w".into(),
            ..Settings::default()
        };
        let spec = made(&settings, User::default(), false);
        assert_eq!(spec["root"], json!({"path": "/view", "readonly": false}));
        assert_eq!(spec["process"]["args"], json!(["/bin/sh", "-c", "true"]));
        assert_eq!(
            spec["process"]["env"],
            json!(["PATH=/bin", "HOSTNAME=box", "A=1"])
        );
        assert_eq!(spec["process"]["cwd"], "/w");
        assert_eq!(
            spec["process"]["rlimits"],
            json!([{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}])
        );
        assert_eq!(spec["linux"]["cgroupsPath"], "/layerctl-x");
        let namespaces = spec["linux"]["namespaces"].to_string();
        assert!(!namespaces.contains("network") && !namespaces.contains("cgroup"));
        let effective = spec["process"]["capabilities"]["effective"].as_array();
        assert_eq!(effective.unwrap().len(), 14);
        let last = spec["mounts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["destination"], "/etc/hosts");
        assert_eq!(last["source"], "/run/hosts");
    }

    #[test]
    fn what_the_options_change() {
        let bind = |text: &str| text.parse().unwrap();
        let settings = Settings {
            read_only: true,
            network: Network::None,
            binds: vec![
                bind("/h/deep:/a/b/c"),
                bind("/h:/a:ro"),
                bind("/x:/etc/hosts"),
            ],
            ..Settings::default()
        };
        let app = User {
            uid: 1000,
            gid: 1000,
            additional: vec![7],
        };
        let spec = made(&settings, app, true);
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["process"]["terminal"], true);
        assert!(spec["process"]["env"].to_string().contains("TERM=xterm"));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([7]));
        let capabilities = &spec["process"]["capabilities"];
        assert_eq!(capabilities["effective"].as_array().unwrap().len(), 0);
        assert_eq!(capabilities["bounding"].as_array().unwrap().len(), 14);
        assert!(spec["linux"]["namespaces"].to_string().contains("network"));
        let mounts = spec["mounts"].as_array().unwrap();
        let binds: Vec<String> = mounts
            .iter()
            .filter(|m| m["type"] == "bind")
            .map(|m| format!("{} {}", m["destination"], m["options"]))
            .collect();
        assert_eq!(
            binds,
            [
                r#""/a" ["rbind","rprivate","ro"]"#,
                r#""/etc/hosts" ["rbind","rprivate"]"#,
                r#""/a/b/c" ["rbind","rprivate"]"#,
            ]
        );
    }
}
