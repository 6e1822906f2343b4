//! `logs`: what a container's process has written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::{CommandError, output};
use crate::container::bundle::RunDir;
use crate::container::find;
use crate::container::output_log::{Record, Stream, next};
use crate::model::ContainerId;
use crate::store::StoreError;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on until the container stops
    #[arg(short, long)]
    follow: bool,
    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only so many lines from the end
    #[arg(
        short = 'n',
        long,
        value_name = "LINES",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// Only since this time (RFC 3339), or this long ago (90s, 10m, 2h30m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Name, ID, or unambiguous prefix of an ID
    container: String,
}

/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Run `logs`.
pub fn run(args: Args, cx: &mut Context) -> Result<(), CommandError> {
    let snapshot = cx.snapshot()?;
    let id = find(&snapshot, &args.container)?.id.clone();
    let path = cx.store.container(&id).output();
    // Asked before the log is read: what comes after its end would be missed otherwise.
    let mut runs = is_running(cx, &id)?;
    let file = match File::open(&path) {
        Ok(file) => file,
        // Nothing has run yet.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::at("open", &path)(e).into()),
    };
    let cannot_read = |e| CommandError::from(StoreError::at("read", &path)(e));
    let mut printer = Printer {
        timestamps: args.timestamps,
        is_inside: [false; 2],
    };
    let since = args.since.as_deref().map(since).transpose()?;
    let mut log = BufReader::new(file);
    let mut line = Vec::new();
    let mut read = || -> Result<Option<Record>, CommandError> {
        loop {
            match next(&mut log, &mut line).map_err(cannot_read)? {
                Some(record) if since.is_some_and(|since| record.time < since) => {}
                None if go_back(&mut log, &mut line).map_err(cannot_read)? => {}
                other => return Ok(other),
            }
        }
    };
    if let Some(lines) = lines_of(&args.tail)? {
        for record in tail(&mut read, lines)? {
            printer.print(&record)?;
        }
    }
    loop {
        while let Some(record) = read()? {
            printer.print(&record)?;
        }
        if !runs || !args.follow {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        runs = is_running(cx, &id)?;
    }
}

/// A log that has become shorter than what was read of it: half a line was taken back, for the disk is
/// full, or somebody has emptied it. Go back to where the next line is; false if there is no need.
fn go_back(log: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    let position = log.stream_position()?;
    let length = log.get_ref().metadata()?.len();
    if length >= position {
        return Ok(false);
    }
    let whole = position.saturating_sub(line.len() as u64);
    line.clear();
    let next = if length >= whole { whole } else { 0 };
    log.seek(SeekFrom::Start(next))?;
    Ok(true)
}

/// Whether more may come: the record of the end is made before the last of the output is.
fn is_running(cx: &mut Context, id: &ContainerId) -> Result<bool, CommandError> {
    let view = cx.db.read(|tx| tx.view(id))?;
    let is_ending = || RunDir::of(&cx.store, id).path().exists();
    Ok(view.is_some_and(|view| view.process.is_some() || is_ending()))
}

fn lines_of(tail: &str) -> Result<Option<usize>, CommandError> {
    match tail {
        "all" => Ok(None),
        number => match number.parse::<i64>() {
            Ok(number) => Ok(usize::try_from(number).ok()),
            Err(_) => Err(CommandError::new(format!(
                "invalid number of lines: {number}"
            ))),
        },
    }
}

fn since(text: &str) -> Result<Timestamp, CommandError> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = text.parse::<jiff::SignedDuration>();
    ago.ok()
        .and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .ok_or_else(|| CommandError::new(format!("invalid time: {text}")))
}

/// The last lines of what there is. A line may be of several records, the last of which ends it.
fn tail(
    read: &mut impl FnMut() -> Result<Option<Record>, CommandError>,
    limit: usize,
) -> Result<Vec<Record>, CommandError> {
    let mut lines: VecDeque<Vec<Record>> = VecDeque::new();
    while let Some(record) = read()? {
        match lines.back_mut() {
            Some(line) if !ends_line(line) => line.push(record),
            _ => lines.push_back(vec![record]),
        }
        if lines.len() > limit {
            lines.pop_front();
        }
    }
    Ok(lines.into_iter().flatten().collect())
}

fn ends_line(line: &[Record]) -> bool {
    line.last().is_some_and(|r| r.bytes.last() == Some(&b'\n'))
}

struct Printer {
    timestamps: bool,
    /// Whether the last record of standard output, and of standard error, did not end its line.
    is_inside: [bool; 2],
}

impl Printer {
    fn print(&mut self, record: &Record) -> Result<(), CommandError> {
        let is_inside = &mut self.is_inside[usize::from(record.stream == Stream::Stderr)];
        let mut bytes = Vec::new();
        if self.timestamps && !*is_inside {
            bytes.extend(format!("{:.9} ", record.time).into_bytes());
        }
        *is_inside = record.bytes.last() != Some(&b'\n');
        bytes.extend(&record.bytes);
        let written = match record.stream {
            Stream::Stdout => io::stdout()
                .write_all(&bytes)
                .and_then(|()| io::stdout().flush()),
            Stream::Stderr => io::stderr().write_all(&bytes),
        };
        written.map_err(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let record = |text: &str| format!("1970-01-01T00:00:00Z stdout F {text}\n");
        let whole = record("one");
        std::fs::write(&path, format!("{whole}1970-01-01T00:00:00Z stdo")).unwrap();
        let mut log = BufReader::new(File::open(&path).unwrap());
        let mut line = Vec::new();
        let mut read = || {
            loop {
                let read = next(&mut log, &mut line).unwrap();
                if read.is_some() || !go_back(&mut log, &mut line).unwrap() {
                    return read.map(|r| String::from_utf8(r.bytes).unwrap());
                }
            }
        };
        assert_eq!(read().as_deref(), Some("one\n"));
        assert_eq!(read(), None);
        // Half a line is taken back, and then another is written.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.set_len(whole.len() as u64).unwrap();
        assert_eq!(read(), None);
        file.write_all(record("two").as_bytes()).unwrap();
        assert_eq!(read().as_deref(), Some("two\n"));
        // It is emptied.
        file.set_len(0).unwrap();
        file.write_all(record("three").as_bytes()).unwrap();
        assert_eq!(read().as_deref(), Some("three\n"));
        assert_eq!(read(), None);
    }

    #[test]
    fn the_last_lines() {
        let record = |text: &str| Record {
            time: Timestamp::UNIX_EPOCH,
            stream: Stream::Stdout,
            bytes: text.as_bytes().to_vec(),
        };
        let last = |limit| {
            let mut records = ["a\n", "b", "b\n", "c\n", "d"].map(record).into_iter();
            let kept = tail(&mut || Ok(records.next()), limit).unwrap();
            let bytes = kept.into_iter().flat_map(|r| r.bytes);
            String::from_utf8(bytes.collect()).unwrap()
        };
        for (limit, text) in [
            (0, ""),
            (1, "d"),
            (2, "c\nd"),
            (3, "bb\nc\nd"),
            (9, "a\nbb\nc\nd"),
        ] {
            assert_eq!(last(limit), text, "{limit}");
        }
    }
}
