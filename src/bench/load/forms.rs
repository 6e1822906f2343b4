//! The image, in the forms in which it is loaded.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Plan, own_image};
use crate::bench::BenchError;
use crate::bench::disk::Disk;
use crate::bench::image::TAG;
use crate::bench::layerctl::Layerctl;
use crate::bench::program::{Program, find_or_lack};
use crate::bench::stop::Stop;

/// How the layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// They are not.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Form {
    /// All of them, in the order of tables.
    pub const ALL: [Form; 3] = [Form::Plain, Form::Gzip, Form::Zstd];

    /// `plain`, `gzip`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Gzip => "gzip",
            Form::Zstd => "zstd",
        }
    }

    /// For tar's command line.
    pub fn decompress(self) -> Option<&'static str> {
        match self {
            Form::Plain => None,
            Form::Gzip => Some("--gzip"),
            Form::Zstd => Some("--zstd"),
        }
    }

    /// For `layerctl save --compress`.
    fn compress(self) -> &'static str {
        match self {
            Form::Plain => "none",
            Form::Gzip => "gzip",
            Form::Zstd => "zstd",
        }
    }
}

/// The image in one form.
#[derive(Debug)]
pub struct Archive {
    /// Which.
    pub form: Form,
    /// A docker-archive.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: u64,
    /// What is in it, as files: an OCI layout as well, where the image is [`Archive::LAYOUT_TAG`].
    pub layout: PathBuf,
    /// The layers in it, from the lowest.
    pub layers: Vec<PathBuf>,
}

impl Archive {
    /// The tag of the image in [`Archive::layout`].
    pub const LAYOUT_TAG: &str = "1";

    /// Bring everything into the page cache, so that no contestant waits for another disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn warm(&self) -> Result<(), BenchError> {
        for path in self.layers.iter().chain([&self.path]) {
            let read = |path| io::copy(&mut File::open(path)?, &mut io::sink());
            read(path).map_err(BenchError::at("read", path))?;
        }
        Ok(())
    }
}

/// The image that is loaded.
#[derive(Debug)]
pub struct Image {
    /// Its name in the archive; its ID where it has none.
    pub name: String,
    /// How many layers it has.
    pub layers: usize,
    /// In the order of the plan.
    pub archives: Vec<Archive>,
}

/// A docker-archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    layers: Vec<PathBuf>,
}

impl Image {
    /// Load the archive with this program, and save its first image in all forms: beside the disk.
    ///
    /// # Errors
    /// It is no archive, or there is no space.
    pub fn prepare(
        plan: &Plan,
        disk: &Disk,
        stop: &Stop,
        tell: &dyn Fn(&str),
    ) -> Result<Image, BenchError> {
        let layerctl = Layerctl::new(&plan.layerctl, disk.top().join("prepared"));
        let made = match &plan.archive {
            Some(_) => None,
            None => Some(own_image::make(disk.beside(), stop)?),
        };
        let input = plan.archive.as_ref().or(made.as_ref());
        let input = input.map_or(Path::new(""), PathBuf::as_path);
        let loaded = layerctl.load(input, stop).map_err(what_it_said)?.out;
        if let Some(path) = &made {
            fs::remove_file(path).map_err(BenchError::at("delete", path))?;
        }
        let first = loaded.lines().next().and_then(|line| line.split_once(": "));
        let Some((_, name)) = first else {
            let none = format!("{}: there is no image in it", input.display());
            return Err(BenchError::Wrong(none));
        };
        layerctl.run(&["tag", name, TAG], stop)?;
        let mut archives = Vec::new();
        for form in &plan.forms {
            tell(&format!("saving it, {}", form.name()));
            let path = disk.beside().join(format!("{}.tar", form.name()));
            let save = ["save", "--compress", form.compress(), TAG, "--output"];
            let save = layerctl.command(&save).arg(&path).run(stop);
            save.map_err(what_it_said)?;
            archives.push(Archive::open(*form, path, stop)?);
        }
        fs::remove_dir_all(layerctl.root()).map_err(BenchError::at("delete", layerctl.root()))?;
        Ok(Image {
            name: name.to_owned(),
            layers: archives.first().map_or(0, |archive| archive.layers.len()),
            archives,
        })
    }
}

impl Archive {
    fn open(form: Form, path: PathBuf, stop: &Stop) -> Result<Archive, BenchError> {
        let layout = path.with_extension("");
        fs::create_dir(&layout).map_err(BenchError::at("create", &layout))?;
        let tar = Program::new(find_or_lack("tar")?).arg("-C").arg(&layout);
        tar.arg("-xf").arg(&path).run(stop)?;
        let file = layout.join("manifest.json");
        let text = fs::read(&file).map_err(BenchError::at("read", &file))?;
        let manifest: Vec<Manifest> = serde_json::from_slice(&text)
            .map_err(|e| BenchError::Wrong(format!("{}: {e}", file.display())))?;
        let layers = manifest.into_iter().next().map(|image| image.layers);
        let layers = layers.into_iter().flatten().map(|name| layout.join(name));
        Ok(Archive {
            form,
            bytes: fs::metadata(&path)
                .map_err(BenchError::at("read", &path))?
                .len(),
            layers: layers.collect(),
            layout,
            path,
        })
    }
}

/// What this program said is ours to say.
fn what_it_said(error: BenchError) -> BenchError {
    match error {
        BenchError::Failed { said, .. } => {
            let said = said
                .strip_prefix("Error: ")
                .map(str::to_owned)
                .unwrap_or(said);
            BenchError::Wrong(said)
        }
        other => other,
    }
}
