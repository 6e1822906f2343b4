//! What the listings say: `images`, `ps`, `layers`, `df`, `why`, `events`, `inspect`, `history`,
//! `tag`, `rm`; as tables, as IDs, as JSON.

use serde_json::Value;

use crate::harness::{Store, number, strings, text};
use crate::samples::{app, heavy};

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
    for line in table.lines().skip(1) {
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
        assert!(text(row, "Size").ends_with('B'), "{row}");
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
    for (line, diff) in lines.iter().zip(image.diffs.iter().rev()) {
        assert!(line.contains(&format!("layer {}", &diff[7..19])), "{line}");
    }
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
    assert_eq!(row["ImagePresent"], true);
    // Only what is mounted or runs is listed without -a.
    assert!(store.json(&["ps"]).is_empty());
    let view = store.mount("web");
    let rows = store.json(&["ps"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(text(&rows[0], "State"), "mounted");
    assert_eq!(text(&rows[0], "Mountpoint"), view.to_str().unwrap());
    assert_eq!(store.ok(&["ps", "-q"]), format!("{}\n", &id[..12]));
    assert_eq!(store.ok(&["ps", "-q", "--no-trunc"]), format!("{id}\n"));
    // By name, by prefix.
    store.ok(&["umount", &id[..6]]);
    assert!(store.json(&["ps"]).is_empty());
    assert_eq!(store.container_state(id), "exited");
    let table = store.ok(&["ps", "-a"]);
    assert!(
        table.starts_with("CONTAINER ID") && table.contains("web"),
        "{table}"
    );
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
    assert!(!store.ok(&["df", "-v"]).is_empty());
}

/// `why` names what holds a layer or an image.
pub fn why() {
    let store = Store::new();
    let image = store.load(&app(&["app:1"]));
    let (container, _view) = store.create_mounted("app:1");
    for name in ["app:1", &image.chains[2], &image.chains[0][7..19]] {
        let said = store.ok(&["why", name]);
        assert!(said.contains("app:1"), "the image that names it: {said}");
        assert!(
            said.contains(&container[..12]),
            "the view that pins it: {said}"
        );
    }
    store.ok(&["rmi", "-f", "app:1"]);
    let said = store.ok(&["why", &image.chains[2]]);
    assert!(said.contains(&container[..12]), "{said}");
    assert!(
        !said.contains("app:1") || said.contains("pending"),
        "{said}"
    );
}

/// The history of one image: every step, once, in order.
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
