//! What the listings say: `images`, `ps`, `layers`, `df`, `why`, `events`, `inspect`, `history`,
//! `tag`, `rm`; as tables, as IDs, as JSON.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use layerctl::model::human;
use serde_json::{Value, json};

use crate::harness::{Store, number, strings, text};
use crate::samples::{app, heavy};

/// The lengths of the files in each layer of `app`, the lowest first.
const LENGTHS: [u64; 3] = [3 + 23 + 100_000, 3, 5];

pub fn images() {
    let store = Store::new();
    assert_eq!(store.ok(&["images", "-q"]), "");
    let image = store.load(&app(&["app:1", "app:2", "me/other:x"]));
    let table = store.ok(&["images"]);
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    );
    assert_eq!(table.lines().count(), 4);
    let size = human::size(LENGTHS.iter().sum());
    for line in table.lines().skip(1) {
        assert!(line.ends_with(&format!(" {size}")), "{line}");
        assert_eq!(
            line.split_whitespace().nth(2),
            Some(image.short()),
            "{line}"
        );
    }
    assert_eq!(
        store.ok(&["images", "-q"]),
        format!("{}\n", image.short()).repeat(3)
    );
    let full = store.ok(&["images", "-q", "--no-trunc"]);
    assert_eq!(full, format!("{}\n", image.id).repeat(3));
    let rows = store.json(&["images"]);
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(text(row, "ID"), image.id);
        assert!(
            text(row, "CreatedAt").starts_with("2024-01-02 03:04:05"),
            "{row}"
        );
        assert_eq!(text(row, "Size"), size);
    }
    // By repository, and by reference.
    assert_eq!(store.json(&["images", "app"]).len(), 2);
    assert_eq!(store.json(&["images", "app:2"]).len(), 1);
    assert_eq!(store.json(&["images", "me/other"]).len(), 1);
    assert_eq!(store.json(&["images", "nothing"]).len(), 0);
}

/// One config that is gone hides neither its image nor any other.
pub fn images_without_a_config() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let before = store.ok(&["images", "--format", "json"]);
    std::fs::remove_dir_all(store.root().join("images").join(&image.id[7..])).unwrap();
    assert_eq!(store.ok(&["images", "--format", "json"]), before);
    store.ok(&["rmi", "app:1"]);
}

pub fn tags() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    assert_eq!(store.ok(&["tag", "app:1", "copy"]), "");
    assert_eq!(
        store.ok(&["tag", image.short(), "localhost:5000/copy:2"]),
        ""
    );
    // Once more is no error.
    store.ok(&["tag", "app:1", "copy"]);
    let names: Vec<String> = store
        .json(&["images"])
        .iter()
        .map(|row| format!("{}:{}", text(row, "Repository"), text(row, "Tag")))
        .collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, ["app:1", "copy:latest", "localhost:5000/copy:2"]);
    store
        .run(&["rmi", "copy"])
        .expect(0, "Untagged: copy:latest\n", "");
    store.check_at_rest();
}

pub fn inspect_and_history() {
    let store = Store::new();
    let image = store.load(&app(&["app:1", "app:2"]));
    let found: Value = serde_json::from_str(&store.ok(&["inspect", "app:1"])).unwrap();
    let found = &found.as_array().expect("an array, as Docker's")[0];
    assert_eq!(text(found, "Id"), image.id);
    assert_eq!(strings(&found["RepoTags"]), ["app:1", "app:2"]);
    assert_eq!(text(found, "Os"), "linux");
    assert_eq!(strings(&found["RootFS"]["Layers"]), image.diffs);
    assert_eq!(strings(&found["Config"]["Cmd"]), ["/bin/sleep", "1000"]);
    let table = store.ok(&["history", "app:1"]);
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    );
    // The newest first.
    let lines: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(lines.len(), 3);
    let rows = store.json(&["history", "app:1"]);
    assert_eq!(rows.len(), 3);
    for (n, diff) in image.diffs.iter().enumerate() {
        let (line, row) = (lines[2 - n], &rows[2 - n]);
        let (by, size) = (format!("layer {}", &diff[7..19]), human::size(LENGTHS[n]));
        assert!(line.contains(&by), "{line}");
        assert!(line.ends_with(&format!(" {size}")), "{line}");
        assert_eq!((text(row, "CreatedBy"), text(row, "Size")), (by, size));
    }
    assert_eq!(number(found, "Size"), LENGTHS.iter().sum::<u64>());
}

/// `inspect` of a container: what it is made from and where it stands, under Docker's names.
pub fn inspect_of_a_container() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let id = store.ok(&["create", "--name", "web", "app:1", "/bin/echo", "hello"]);
    let id = id.trim_end();
    let inspect = |name: &str| -> Value {
        let found: Value = serde_json::from_str(&store.ok(&["inspect", name])).unwrap();
        let found = found.as_array().expect("an array, as Docker's");
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let created = inspect("web");
    assert_eq!(inspect(&id[..12]), created, "by a prefix of its ID");
    assert_eq!(text(&created, "Id"), id);
    assert_eq!(text(&created, "Name"), "/web");
    assert_eq!(text(&created, "Image"), image.id);
    assert_eq!(created["ImagePresent"], true);
    assert_eq!(text(&created["Config"], "Image"), "app:1");
    assert_eq!(strings(&created["Config"]["Cmd"]), ["/bin/echo", "hello"]);
    let state = &created["State"];
    assert_eq!(
        (text(state, "Status"), &state["Pid"]),
        ("created".into(), &json!(0))
    );
    assert_eq!(
        (&state["StartedAt"], &state["FinishedAt"]),
        (&Value::Null, &Value::Null)
    );

    let view = store.mount("web");
    let mounted = inspect("web");
    let state = &mounted["State"];
    assert_eq!(text(state, "Status"), "mounted");
    assert_eq!(state["Pid"], store.server());
    let since: jiff::Timestamp = text(state, "StartedAt").parse().unwrap();
    assert!(since > text(&mounted, "Created").parse().unwrap());
    let places = &mounted["GraphDriver"]["Data"];
    assert_eq!(text(places, "MergedDir"), view.to_str().unwrap());
    std::fs::write(view.join("new"), "written").unwrap();
    let upper = std::path::PathBuf::from(text(places, "UpperDir"));
    assert_eq!(std::fs::read(upper.join("new")).unwrap(), b"written");

    store.ok(&["umount", "web"]);
    store.ok(&["rmi", "-f", "app:1"]);
    let exited = inspect("web");
    let state = &exited["State"];
    assert_eq!(
        (text(state, "Status"), &state["Pid"]),
        ("exited".into(), &json!(0))
    );
    assert_eq!(state["ExitCode"], 0);
    let ended: jiff::Timestamp = text(state, "FinishedAt").parse().unwrap();
    assert!(ended > since);
    assert_eq!(exited["ImagePresent"], false);
    assert_eq!(exited["GraphDriver"]["Data"]["MergedDir"], Value::Null);
}

pub fn containers() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let id = store.ok(&["create", "--name", "web", "app:1", "/bin/echo", "hello"]);
    let id = id.trim_end();
    let row = store.container(id);
    assert_eq!(text(&row, "Image"), "app:1");
    assert_eq!(text(&row, "ImageID"), image.id);
    assert_eq!(text(&row, "Names"), "web");
    assert!(text(&row, "Command").contains("/bin/echo hello"), "{row}");
    assert_eq!(
        (text(&row, "State"), text(&row, "Mountpoint")),
        ("created".into(), "".into())
    );
    assert_eq!(text(&row, "Status"), "Created");
    assert_eq!(row["ImagePresent"], true);
    // Only what is mounted or runs is listed without -a.
    assert!(store.json(&["ps"]).is_empty());
    let view = store.mount("web");
    let rows = store.json(&["ps"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(text(&rows[0], "State"), "mounted");
    // `Mounted Less than a second`, `Mounted 1 second` or, where all is slow, `Mounted 5 seconds`.
    let status = text(&rows[0], "Status");
    assert!(
        status.starts_with("Mounted ") && status.contains(" second"),
        "{status}"
    );
    assert_eq!(text(&rows[0], "Mountpoint"), view.to_str().unwrap());
    assert_eq!(store.ok(&["ps", "-q"]), format!("{}\n", &id[..12]));
    assert_eq!(store.ok(&["ps", "-q", "--no-trunc"]), format!("{id}\n"));
    // By name, by prefix.
    store.ok(&["umount", &id[..6]]);
    assert!(store.json(&["ps"]).is_empty());
    assert_eq!(store.container_state(id), "exited");
    let status = text(&store.container(id), "Status");
    assert!(
        status.starts_with("Exited (0) ") && status.ends_with(" ago"),
        "{status}"
    );
    let table = store.ok(&["ps", "-a"]);
    assert!(
        table.starts_with("CONTAINER ID") && table.contains("web") && table.contains("Exited (0) "),
        "{table}"
    );
    // Killed, it says so.
    store.mount("web");
    crate::harness::process::kill_hard(store.server());
    let status = text(&store.container(id), "Status");
    assert!(status.starts_with("Exited (137) "), "{status}");
    assert_eq!(store.ok(&["rm", "web"]), "web\n");
    assert!(store.json(&["ps", "-a"]).is_empty());
    assert_eq!(
        std::fs::read_dir(store.root().join("containers"))
            .unwrap()
            .count(),
        0
    );
    store.check_at_rest();
}

pub fn layers_and_df() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let rows = store.json(&["layers"]);
    assert_eq!(rows.len(), 3);
    for (chain, diff) in image.chains.iter().zip(&image.diffs) {
        let row = rows
            .iter()
            .find(|row| text(row, "chain_id") == *chain)
            .unwrap();
        assert_eq!(text(row, "diff_id"), *diff);
        assert_eq!(text(row, "state"), "live");
        assert_eq!(strings(&row["images"]), [image.id.as_str()]);
        assert!(strings(&row["pinned_by"]).is_empty());
        assert!(number(row, "bytes") > 0);
        assert!(number(row, "entries") > 0);
    }
    let df = store.df();
    assert_eq!(number(&df["live"], "count"), 3);
    assert!(number(&df["live"], "bytes") >= 100_000);
    assert!(number(&df["metadata"], "bytes") > 0);
    let (container, view) = store.create_mounted("app:1");
    let before = number(&store.df()["containers"], "bytes");
    std::fs::write(view.join("new"), crate::harness::noise(1, 1 << 20)).unwrap();
    crate::harness::wait_until("what is written is allocated", || {
        rustix::fs::sync();
        number(&store.df()["containers"], "bytes") >= before + (1 << 20)
    });
    for row in store.json(&["layers"]) {
        assert_eq!(strings(&row["pinned_by"]), [container.as_str()]);
    }
    store.check_at_rest();
}

/// What `df -v` prints, cell by cell: the shares and their sum, then each layer.
fn df_table(store: &Store) -> Vec<Vec<String>> {
    let table = store.ok(&["df", "-v"]);
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split("  ").map(str::trim);
        cells.filter(|c| !c.is_empty()).map(str::to_owned).collect()
    };
    table.lines().map(cells).collect()
}

pub fn df_for_people() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    store.ok(&["rmi", "--no-prune", "app:1"]);
    let other = store.load(&heavy("heavy:1", 1));
    let df = store.df();
    let mut sum = 0;
    let mut expected = vec![["TYPE", "COUNT", "SIZE"].map(str::to_owned).to_vec()];
    for (name, part) in [
        ("live layers", "live"),
        ("unused layers", "unused"),
        ("pending layers", "pending"),
        ("reclaiming layers", "reclaiming"),
        ("orphaned", "orphaned"),
        ("containers", "containers"),
        ("metadata", "metadata"),
    ] {
        let (count, bytes) = (number(&df[part], "count"), number(&df[part], "bytes"));
        sum += bytes;
        expected.push(vec![name.to_owned(), count.to_string(), human::size(bytes)]);
    }
    expected.push(vec!["total".to_owned(), human::size(sum)]);
    expected.push(Vec::new());
    let headings = [
        "CHAIN ID",
        "DIFF ID",
        "STATE",
        "SIZE",
        "ENTRIES",
        "IMAGES",
        "PINNED BY",
    ];
    expected.push(headings.map(str::to_owned).to_vec());
    for (image, state, named) in [(&image, "unused", None), (&other, "live", Some("heavy:1"))] {
        for chain in &image.chains {
            let layer = store.layer(chain).unwrap();
            assert_eq!(text(&layer, "state"), state);
            let (bytes, entries) = (number(&layer, "bytes"), number(&layer, "entries"));
            expected.push(vec![
                chain[7..19].to_owned(),
                text(&layer, "diff_id")[7..19].to_owned(),
                state.to_owned(),
                human::size(bytes),
                entries.to_string(),
            ]);
            expected
                .last_mut()
                .unwrap()
                .extend(named.map(str::to_owned));
        }
    }
    let mut found = df_table(&store);
    let rest = found.split_off(expected.len());
    // The layers in any order.
    let by_chain = |rows: &mut Vec<Vec<String>>| rows[11..].sort();
    by_chain(&mut expected);
    by_chain(&mut found);
    assert_eq!(found, expected);
    let layers: u64 = other
        .chains
        .iter()
        .map(|chain| number(&store.layer(chain).unwrap(), "bytes"))
        .sum();
    let size = human::size(layers);
    let own = number(
        &store.json(&["df", "-v"])[0]["by_image"][0],
        "metadata_bytes",
    );
    assert_eq!(
        rest,
        [
            &[][..],
            &[
                "IMAGE ID",
                "TAGS",
                "SIZE",
                "SHARED SIZE",
                "UNIQUE SIZE",
                "METADATA",
                "CONTAINERS"
            ],
            &[
                other.short(),
                "heavy:1",
                &size,
                "0B",
                &size,
                &human::size(own),
                "0"
            ],
            &[],
            &["CONTAINER ID", "NAME", "IMAGE", "SIZE"],
        ]
    );
}

/// `why` tells where a layer stands, and names what holds it.
pub fn why() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, view) = store.create_mounted("app:1");
    let name = text(&store.container(&container), "Names");
    let (diff, chain) = (&image.diffs[2], &image.chains[2]);
    let says = |state: &str| {
        let size = human::size(number(&store.layer(chain).unwrap(), "bytes"));
        format!("{chain} is {state} ({size}, diff {})\n", &diff[7..19])
    };
    let named = format!("  named by image {} (app:1)\n", image.short());
    let pinned = format!(
        "  pinned by container {} ({name}), mounted at {}, served by PID {} for ",
        &container[..12],
        view.display(),
        store.server()
    );
    let said = store.ok(&["why", chain]);
    assert!(
        said.starts_with(&(says("live") + &named + &pinned)),
        "{said}"
    );
    assert_eq!(said.lines().count(), 3, "nobody uses the view: {said}");
    // By the image, all of its layers; by a prefix, the diff ID.
    assert_eq!(store.json(&["why", "app:1"]).len(), 3);
    let of_lowest = store.json(&["why", &image.diffs[0][7..19]]);
    assert_eq!(of_lowest.len(), 1);
    assert_eq!(text(&of_lowest[0], "chain_id"), image.chains[0]);
    assert_eq!(text(&of_lowest[0], "state"), "live");
    let tags = &of_lowest[0]["images"][0]["tags"];
    assert_eq!(strings(tags), ["app:1"]);

    store.ok(&["rmi", "-f", "app:1"]);
    let said = store.ok(&["why", chain]);
    assert!(said.starts_with(&(says("pending") + &pinned)), "{said}");
    store.ok(&["umount", &container]);
    store.ok(&["rm", &container]);
    store.load(&app(&["app:1"]));
    store.ok(&["rmi", "--no-prune", "app:1"]);
    let nothing = "  nothing: `layerctl prune` takes it\n";
    assert_eq!(store.ok(&["why", chain]), says("unused") + nothing);
}

/// `events --follow` tells the history, and then what happens; it ends with its reader.
pub fn followed_events() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let history = store.ok(&["events", "--format", "json"]);
    let mut follow = store.command(&["events", "--follow", "--format", "json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let (send, said) = mpsc::channel();
    // After these it closes the pipe.
    let wanted = history.lines().count() + 2;
    let reader = std::thread::spawn(move || {
        for line in lines.take(wanted) {
            send.send(line.unwrap()).ok();
        }
    });
    let next = || {
        let line = said.recv_timeout(Duration::from_secs(30));
        line.expect("a line within reasonable time")
    };
    for line in history.lines() {
        assert_eq!(next(), line);
    }
    for tag in ["app:2", "app:3"] {
        assert!(matches!(follow.try_wait(), Ok(None)), "it waits for more");
        store.ok(&["tag", "app:1", tag]);
        let line: Value = serde_json::from_str(&next()).unwrap();
        let (action, detail) = (text(&line, "action"), text(&line, "detail"));
        assert_eq!((&*action, &*detail), ("tag", tag));
    }
    reader.join().unwrap();
    assert!(follow.wait().unwrap().success());
}

/// A tag that moves is taken from one image before it is given to another; one that stays is not
/// told again.
pub fn events_of_a_tag_that_moves() {
    let store = Store::new();
    let one = store.load(&app(&["app:1"]));
    let two = store.load(&heavy("heavy:1", 1));
    for _ in 0..2 {
        store.ok(&["tag", "heavy:1", "app:1"]);
    }
    let events = store.json(&["events"]);
    let tagging: Vec<[String; 3]> = events
        .iter()
        .map(|e| ["action", "id", "detail"].map(|key| text(e, key)))
        .filter(|[action, ..]| action.ends_with("tag"))
        .collect();
    let (one, two) = (one.id, two.id);
    let line = |action: &str, id: &str, tag: &str| [action, id, tag].map(str::to_owned);
    assert_eq!(
        tagging,
        [
            line("tag", &one, "app:1"),
            line("tag", &two, "heavy:1"),
            line("untag", &one, "app:1"),
            line("tag", &two, "app:1"),
        ]
    );
}

/// The history of one image: every step, once, in order.
pub fn events() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    store.ok(&["tag", "app:1", "app:2"]);
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", image.short()]);
    store.ok(&["umount", &container]);
    store.wait_for_servers_to_end();
    let events = store.json(&["events"]);
    let count = |action: &str| {
        events
            .iter()
            .filter(|e| text(e, "action") == action)
            .count()
    };
    let expected = [
        ("untag", 2),
        ("delete", 1),
        ("mark", 3),
        ("pin", 3),
        ("unpin", 3),
        ("reclaim-start", 3),
        ("reclaim-end", 3),
        ("reclaim-failed", 0),
        ("load", 1),
        ("tag", 2),
    ];
    for (action, n) in expected {
        assert_eq!(count(action), n, "{action}: {events:#?}");
    }
    let times: Vec<String> = events.iter().map(|e| text(e, "time")).collect();
    for time in &times {
        let parsed: jiff::Timestamp = time.parse().unwrap_or_else(|e| panic!("{time}: {e}"));
        assert!(parsed > "2024-01-01T00:00:00Z".parse().unwrap());
    }
    assert!(times.is_sorted(), "{times:?}");
    // A layer is marked before its reclaim starts, and that before it ends.
    let at = |action: &str, id: &str| {
        events
            .iter()
            .position(|e| text(e, "action") == action && text(e, "id") == id)
    };
    for mark in events.iter().filter(|e| text(e, "action") == "mark") {
        let id = text(mark, "id");
        let steps = ["mark", "reclaim-start", "reclaim-end"].map(|action| at(action, &id));
        assert!(steps.is_sorted() && steps[0].is_some(), "{id}: {steps:?}");
    }
    let ended = events.iter().filter(|e| text(e, "action") == "reclaim-end");
    assert!(ended.map(|e| number(e, "bytes")).sum::<u64>() > 100_000);
}

/// `gc` says what it left, and why.
pub fn gc_says_what_it_left() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    store.ok(&["rmi", "-f", "app:1"]);
    let run = store.run(&["gc"]);
    assert_eq!(run.code, Some(0));
    let said = run.stdout + &run.stderr;
    assert!(said.contains(&container[..12]), "held by whom: {said}");
    // An orphan goes.
    let orphan = store.root().join("layers").join("0".repeat(64));
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("file"), crate::harness::noise(1, 50_000)).unwrap();
    let df = store.df();
    assert!(number(&df["orphaned"], "bytes") >= 50_000, "{df}");
    store.ok(&["gc"]);
    assert!(!orphan.exists());
    store.check_at_rest();
}

/// The beginning of several containers' IDs is told as such, and not as the name of nothing.
pub fn inspect_of_an_ambiguous_prefix() {
    let store = Store::new();
    store.load(&app(&["app:1"]));
    // More than there are digits: two begin with the same.
    let ids = [(); 17].map(|()| store.create("app:1"));
    let first = |id: &String| id[..1].to_owned();
    let prefix = ids.iter().map(first).find(|digit| {
        let same = ids.iter().filter(|id| id.starts_with(digit));
        same.count() > 1
    });
    let prefix = prefix.unwrap();
    let run = store.run(&["inspect", &prefix]);
    let error = format!("Error: multiple IDs found with provided prefix: {prefix}\n");
    run.expect(1, "[]\n", &error);
    store.ok(&["tag", "app:1", &prefix]);
    let tagged = store.ok(&["inspect", &prefix]);
    assert!(tagged.contains("RepoTags"), "{tagged}");
}
