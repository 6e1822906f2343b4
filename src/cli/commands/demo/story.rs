//! The story: load, mount, open, remove by force, read on, unmount, close, and the space is back.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::image;
use super::sampler::{Sample, Sampler};
use crate::cli::error::{CommandError, output};
use crate::cli::interrupt::on_interrupt;
use crate::cli::table::table;
use crate::db::Db;
use crate::model::human;
use crate::store::Store;
use crate::store::remove_tree::remove_tree;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Seconds since the story began.
    pub at: f64,
    /// In a few words.
    pub what: String,
    /// The store right after it.
    pub after: Sample,
}

/// What there is to show at the end.
#[derive(Debug)]
pub struct Told {
    /// In their order.
    pub moments: Vec<Moment>,
    /// Of the store.
    pub samples: Vec<Sample>,
}

impl Told {
    /// The moments, and what the store took right after each.
    pub fn timeline(&self) -> String {
        let rows = self.moments.iter().map(|moment| {
            let usage = moment.after.usage;
            [
                format!("{:7.3} s", moment.at),
                moment.what.clone(),
                human::size(usage.live.bytes),
                human::size(usage.pending.bytes + usage.reclaiming.bytes),
            ]
        });
        table(["TIME", "EVENT", "LIVE LAYERS", "MARKED LAYERS"], rows)
    }
}

/// Run the story in a store of its own below `scratch`.
pub fn tell(scratch: &Path, archive: Option<PathBuf>) -> Result<Told, CommandError> {
    on_interrupt(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    let directory = tempfile::Builder::new()
        .prefix("layerctl-demo.")
        .tempdir_in(scratch)
        .map_err(|e| CommandError::new(format!("cannot use {}: {e}", scratch.display())))?
        .keep();
    let mut stage = Stage {
        root: directory.join("store"),
        directory,
        start: Instant::now(),
        moments: Vec::new(),
        program: None,
    };
    let played = stage.play(archive);
    let cleared = stage.clear();
    let samples = played?;
    cleared?;
    Ok(Told {
        moments: stage.moments,
        samples,
    })
}

struct Stage {
    directory: PathBuf,
    root: PathBuf,
    start: Instant,
    moments: Vec<Moment>,
    program: Option<Child>,
}

/// What a command has printed.
struct Printed {
    success: bool,
    out: String,
    err: String,
}

impl Stage {
    fn play(&mut self, archive: Option<PathBuf>) -> Result<Vec<Sample>, CommandError> {
        let made = archive.is_none();
        let archive = match archive {
            Some(archive) => archive.canonicalize().map_err(|e| {
                CommandError::new(format!("cannot read {}: {e}", archive.display()))
            })?,
            None => self.make_image()?,
        };
        // The store exists before the sampler looks at it.
        let store = Store::open(&self.root)?;
        drop(Db::open(&store.database())?);
        self.start = Instant::now();
        let sampler = Sampler::start(self.root.clone(), self.start)?;
        let played = self.acts(&archive, made);
        // What the end looks like, too.
        std::thread::sleep(Duration::from_millis(120));
        let samples = sampler.stop();
        played?;
        samples
    }

    fn make_image(&mut self) -> Result<PathBuf, CommandError> {
        let archive = self.directory.join("image.tar");
        say("An image of three layers, made from this machine's own programs and files")?;
        image::make(&archive, &self.directory)
            .map_err(|e| CommandError::new(format!("cannot make an image: {e}")))?;
        let size = std::fs::metadata(&archive)?.len();
        show(format_args!(
            "{} ({})\n",
            archive.display(),
            human::size(size)
        ))?;
        Ok(archive)
    }

    fn acts(&mut self, archive: &Path, made: bool) -> Result<(), CommandError> {
        show(format_args!(
            "\n$ export LAYERCTL_ROOT={}\n",
            self.root.display()
        ))?;
        say("1. The image is unpacked, each layer into a directory of its own")?;
        let loaded = self.must(&["load", "-i", &archive.to_string_lossy()])?;
        self.moment("load")?;
        self.must(&["images"])?;
        self.must(&["layers"])?;
        let (image, own) = self.largest(&loaded.out)?;

        say("2. A container's view of it is mounted")?;
        self.must(&["create", "--name", "demo", &image])?;
        let view = PathBuf::from(self.must(&["mount", "demo"])?.out.trim_end());
        self.moment("mount")?;
        self.shell(&format!("ls {}", view.display()))?;

        say("3. A file of the view is opened, and its first half read")?;
        let path = largest_file(&view)?;
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        let mut hash = Sha256::new();
        read_part(&file, 0..size / 2, &mut hash)?;
        show(format_args!("$ exec 3< {}\n", path.display()))?;
        show(format_args!(
            "# {} of {} read\n",
            human::size(size / 2),
            human::size(size)
        ))?;
        self.moment("open")?;
        if made {
            self.run_program(&view)?;
        }

        say("4. Without force, the image is not removed")?;
        self.must_not(&["rmi", &image], "conflict: ")?;

        say("5. By force it goes at once; its layers wait for the view")?;
        let before = Instant::now();
        let id = self.image_id(&image)?;
        let removed = self.must(&["rmi", "--force", &id])?;
        show(format_args!(
            "# {:.1} ms\n",
            before.elapsed().as_secs_f64() * 1e3
        ))?;
        self.moment("rmi --force")?;
        check(
            removed.out.contains("Deferred: sha256:"),
            "no layer was deferred",
        )?;
        self.must(&["images"])?;
        self.must(&["layers"])?;
        self.must(&["df"])?;
        let pending = self.pending()?;
        check(
            pending == own,
            "the pending bytes are not those of the image's layers",
        )?;

        say("6. Who reads it, reads on: through the open file, and by opening it anew")?;
        read_part(&file, size / 2..size, &mut hash)?;
        let whole = Sha256::digest(std::fs::read(&path)?);
        let same = hash.finalize() == whole;
        show(format_args!(
            "# the other {} read; the whole is as before: {same}\n",
            human::size(size - size / 2)
        ))?;
        check(same, "what was read is not what the file was")?;
        self.shell(&format!("ls {} | wc -l", view.display()))?;
        self.must(&["why", &self.a_layer()?])?;

        say("7. A busy view is not unmounted by accident; lazily it is detached")?;
        self.must_not(&["umount", "demo"], "busy")?;
        self.must(&["umount", "--lazy", "demo"])?;
        self.moment("umount --lazy")?;
        check(!path.exists(), "the view is still there")?;
        let mut again = Sha256::new();
        read_part(&file, 0..size, &mut again)?;
        let same = again.finalize() == whole;
        show(format_args!(
            "# the open file, read once more: as before: {same}\n"
        ))?;
        check(same, "the open file has changed")?;
        let pending = self.pending()?;
        check(pending == own, "bytes went while they were in use")?;

        say("8. The last user goes, and the space is back")?;
        self.end_program()?;
        show(format_args!("$ exec 3<&-\n"))?;
        drop(file);
        self.moment("last close")?;
        self.wait_until_reclaimed()?;
        self.moment("reclaimed")?;
        self.must(&["df"])?;
        self.must(&["events"])?;

        say("9. The container is still there, its image is not")?;
        self.must(&["ps", "-a"])?;
        self.must_not(&["start", "demo"], "No such image: ")?;
        self.moment("end")?;
        show(format_args!(
            "\nWith Docker, step 5 is refused (by ID) or leaves an untagged image that keeps its\n\
             space until somebody prunes (by tag); Podman kills the container.\n"
        ))?;
        Ok(())
    }

    fn run_program(&mut self, view: &Path) -> Result<(), CommandError> {
        let program = view.join(image::SLEEPER);
        show(format_args!("$ {} 60 &\n", program.display()))?;
        let child = Command::new(&program)
            .arg("60")
            .stdin(Stdio::null())
            .spawn();
        self.program =
            Some(child.map_err(|e| {
                CommandError::new(format!("cannot run {}: {e}", program.display()))
            })?);
        self.moment("run a program")?;
        Ok(())
    }

    fn end_program(&mut self) -> Result<(), CommandError> {
        if let Some(mut child) = self.program.take() {
            show(format_args!("$ kill {}\n", child.id()))?;
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn wait_until_reclaimed(&mut self) -> Result<(), CommandError> {
        let limit = Instant::now() + Duration::from_secs(60);
        let mut db = Db::open(&Store::open(&self.root)?.database())?;
        while !db.read(|tx| tx.marked_layers())?.is_empty() {
            check(
                Instant::now() < limit,
                "the space was not back after a minute",
            )?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Of the images that were loaded, the one whose removal gives most, and how many bytes: layers
    /// that others need stay.
    fn largest(&self, loaded: &str) -> Result<(String, u64), CommandError> {
        let mut largest = None;
        for name in names(loaded) {
            let id = self.image_id(name)?;
            let printed = self.quietly(&["rmi", "-f", "--dry-run", "--format", "json", &id])?;
            let plan: serde_json::Value = serde_json::from_str(&printed.out)?;
            let own = plan["freed_bytes"].as_u64().unwrap_or(0);
            if largest.as_ref().is_none_or(|(_, most)| own > *most) {
                largest = Some((name.to_owned(), own));
            }
        }
        largest.ok_or_else(|| CommandError::new("load did not say what it loaded"))
    }

    /// Allocated bytes of the layers that are marked and pinned.
    fn pending(&self) -> Result<u64, CommandError> {
        let printed = self.quietly(&["df", "--format", "json"])?;
        let df: serde_json::Value = serde_json::from_str(&printed.out)?;
        Ok(df["pending"]["bytes"].as_u64().unwrap_or(0))
    }

    fn image_id(&self, name: &str) -> Result<String, CommandError> {
        let printed = self.quietly(&["inspect", name])?;
        let found: serde_json::Value = serde_json::from_str(&printed.out)?;
        let id = found[0]["Id"].as_str().and_then(|id| id.get(7..19));
        Ok(id
            .ok_or_else(|| CommandError::new("the image has no ID"))?
            .to_owned())
    }

    fn a_layer(&self) -> Result<String, CommandError> {
        let printed = self.quietly(&["layers", "-q"])?;
        Ok(printed.out.lines().next().unwrap_or_default().to_owned())
    }

    fn quietly(&self, arguments: &[&str]) -> Result<Printed, CommandError> {
        let output = Command::new("/proc/self/exe")
            .args(arguments)
            .env("LAYERCTL_ROOT", &self.root)
            .stdin(Stdio::null())
            .output()?;
        Ok(Printed {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Run a command as a user would, and show it.
    fn show(&self, arguments: &[&str]) -> Result<Printed, CommandError> {
        show(format_args!("$ layerctl {}\n", arguments.join(" ")))?;
        let printed = self.quietly(arguments)?;
        show(format_args!("{}{}", printed.out, printed.err))?;
        Ok(printed)
    }

    fn must(&self, arguments: &[&str]) -> Result<Printed, CommandError> {
        let printed = self.show(arguments)?;
        check(printed.success, "this command should have succeeded")?;
        Ok(printed)
    }

    fn must_not(&self, arguments: &[&str], why: &str) -> Result<(), CommandError> {
        let printed = self.show(arguments)?;
        check(
            !printed.success && printed.err.contains(why),
            "this command should have failed",
        )
    }

    fn shell(&self, command: &str) -> Result<(), CommandError> {
        show(format_args!("$ {command}\n"))?;
        let output = Command::new("sh").args(["-c", command]).output()?;
        show(format_args!("{}", String::from_utf8_lossy(&output.stdout)))?;
        check(
            output.status.success(),
            "this command should have succeeded",
        )
    }

    fn moment(&mut self, what: &str) -> Result<(), CommandError> {
        let at = self.start.elapsed().as_secs_f64();
        let store = Store::open(&self.root)?;
        let after = Sample::take(&mut Db::open(&store.database())?, &store, self.start)?;
        self.moments.push(Moment {
            at,
            what: what.to_owned(),
            after,
        });
        Ok(())
    }

    /// Leave nothing behind, however the story ended.
    fn clear(&mut self) -> Result<(), CommandError> {
        self.end_program()?;
        if self.root.exists() {
            self.quietly(&["rm", "-f", "demo"])?;
            self.wait_for_servers()?;
        }
        remove_tree(&self.directory)?;
        Ok(())
    }

    fn wait_for_servers(&self) -> Result<(), CommandError> {
        let limit = Instant::now() + Duration::from_secs(30);
        let mut db = Db::open(&Store::open(&self.root)?.database())?;
        while !db.read(|tx| tx.views())?.is_empty() {
            check(Instant::now() < limit, "the view did not end")?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn say(text: &str) -> Result<(), CommandError> {
    show(format_args!("\n# {text}\n"))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Print; or fail, and so leave nothing behind, when nobody reads it or the user has interrupted it.
pub fn show(text: impl std::fmt::Display) -> Result<(), CommandError> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(CommandError::Interrupted);
    }
    let mut out = std::io::stdout();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(output)
}

fn check(holds: bool, otherwise: &str) -> Result<(), CommandError> {
    match holds {
        true => Ok(()),
        false => Err(CommandError::new(format!(
            "the demonstration failed: {otherwise}"
        ))),
    }
}

/// The names that `load` has printed.
fn names(printed: &str) -> impl Iterator<Item = &str> {
    let prefixes = ["Loaded image: ", "Loaded image ID: "];
    printed
        .lines()
        .filter_map(move |line| prefixes.iter().find_map(|p| line.strip_prefix(p)))
}

/// The largest regular file of a view.
fn largest_file(view: &Path) -> Result<PathBuf, CommandError> {
    let mut largest = None;
    let mut pending = vec![view.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.is_file() && largest.as_ref().is_none_or(|(l, _)| meta.len() > *l) {
                largest = Some((meta.len(), entry.path()));
            }
        }
    }
    largest
        .map(|(_, path)| path)
        .ok_or_else(|| CommandError::new("the image has no file to open"))
}

fn read_part(
    file: &File,
    part: std::ops::Range<u64>,
    hash: &mut Sha256,
) -> Result<(), CommandError> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = part.start;
    while at < part.end {
        let most = usize::try_from(part.end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = file.read_at(&mut buffer[..most], at)?;
        check(n > 0, "the file is shorter than it was")?;
        hash.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(())
}
