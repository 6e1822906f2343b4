//! `commit --change`: instructions of a Dockerfile that change how an image's containers run. Pure.
//!
//! As in Docker: words in quotes are one, a backslash takes the next character as it is, and
//! `$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}` are what the config's `Env` says, in all but
//! `CMD`, `ENTRYPOINT` and `ONBUILD`.

use serde_json::{Map, Value, json};

/// Why an instruction was refused. The texts are Docker's where it has the case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not one of those that a commit may have.
    #[error("{0} is not a valid change command")]
    Unknown(String),
    /// It says too little or too much.
    #[error("{0} requires {1}")]
    Arguments(&'static str, &'static str),
    /// A word that is no assignment.
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoAssignment(String),
    /// A quote without an end, and the like.
    #[error("{0}: {1}")]
    Syntax(&'static str, String),
}

const AT_LEAST_ONE: &str = "at least one argument";
const EXACTLY_ONE: &str = "exactly one argument";

/// Apply instructions, in their order, to `config`: the part of an image's config that has that name.
pub fn apply(config: &mut Map<String, Value>, changes: &[String]) -> Result<(), ChangeError> {
    let mut has_cmd = false;
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => {
                has_cmd = true;
                config.insert("Cmd".into(), command("CMD", config, rest)?);
            }
            "ENTRYPOINT" => {
                let entrypoint = command("ENTRYPOINT", config, rest)?;
                config.insert("Entrypoint".into(), entrypoint);
                // The arguments were for another program.
                if !has_cmd {
                    config.remove("Cmd");
                }
            }
            "ENV" => env(config, rest)?,
            "LABEL" => label(config, rest)?,
            "EXPOSE" => expose(config, rest)?,
            "VOLUME" => volume(config, rest)?,
            "ONBUILD" => onbuild(config, rest)?,
            "STOPSIGNAL" => set_word(config, "STOPSIGNAL", "StopSignal", rest)?,
            "USER" => set_word(config, "USER", "User", rest)?,
            "WORKDIR" => workdir(config, rest)?,
            _ => return Err(ChangeError::Unknown(instruction.to_owned())),
        }
    }
    Ok(())
}

/// A JSON list of strings or, if it is none, a line for the shell.
fn command(
    name: &'static str,
    config: &Map<String, Value>,
    rest: &str,
) -> Result<Value, ChangeError> {
    if rest.is_empty() {
        return Err(ChangeError::Arguments(name, AT_LEAST_ONE));
    }
    if let Some(list) = list(rest) {
        return Ok(list.into());
    }
    let shell = config.get("Shell").and_then(Value::as_array).cloned();
    let mut words = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    words.push(rest.into());
    Ok(words.into())
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn env(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    let assignments = assignments("ENV", config, rest)?;
    let mut list = taken_list(config, "Env");
    for (name, value) in assignments {
        let is_it = |entry: &Value| {
            let before = entry.as_str().and_then(|e| e.split_once('='));
            before.is_some_and(|(before, _)| before == name)
        };
        let new = Value::from(format!("{name}={value}"));
        match list.iter_mut().find(|entry| is_it(entry)) {
            Some(entry) => *entry = new,
            None => list.push(new),
        }
    }
    config.insert("Env".into(), list.into());
    Ok(())
}

fn label(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    for (name, value) in assignments("LABEL", config, rest)? {
        put(config, "Labels", name, value.into());
    }
    Ok(())
}

fn expose(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    for word in words("EXPOSE", config, rest)? {
        let (ports, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let bad = || ChangeError::Syntax("EXPOSE", format!("invalid containerPort: {word}"));
        let protocol = protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(ChangeError::Syntax(
                "EXPOSE",
                format!("invalid proto: {protocol}"),
            ));
        }
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let first: u16 = first.parse().map_err(|_| bad())?;
        let last: u16 = last.parse().map_err(|_| bad())?;
        if first > last {
            return Err(bad());
        }
        for port in first..=last {
            put(
                config,
                "ExposedPorts",
                format!("{port}/{protocol}"),
                json!({}),
            );
        }
    }
    Ok(())
}

fn volume(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    let paths = match list(rest) {
        Some(list) if list.is_empty() => {
            return Err(ChangeError::Arguments("VOLUME", AT_LEAST_ONE));
        }
        Some(list) => list,
        None => words("VOLUME", config, rest)?,
    };
    for path in paths {
        if path.trim().is_empty() {
            let why = "specified volume can not be an empty string".to_owned();
            return Err(ChangeError::Syntax("VOLUME", why));
        }
        put(config, "Volumes", path, json!({}));
    }
    Ok(())
}

fn onbuild(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    let trigger = rest.split_whitespace().next().unwrap_or_default();
    let refused = |why: &str| Err(ChangeError::Syntax("ONBUILD", why.to_owned()));
    match trigger.to_ascii_uppercase().as_str() {
        "" => Err(ChangeError::Arguments("ONBUILD", AT_LEAST_ONE)),
        "ONBUILD" => refused("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        "FROM" | "MAINTAINER" => {
            refused("FROM and MAINTAINER aren't allowed as an ONBUILD trigger")
        }
        _ => {
            let mut list = taken_list(config, "OnBuild");
            list.push(rest.into());
            config.insert("OnBuild".into(), list.into());
            Ok(())
        }
    }
}

fn set_word(
    config: &mut Map<String, Value>,
    name: &'static str,
    key: &str,
    rest: &str,
) -> Result<(), ChangeError> {
    match <[String; 1]>::try_from(words(name, config, rest)?) {
        Ok([word]) => {
            config.insert(key.to_owned(), word.into());
            Ok(())
        }
        Err(_) => Err(ChangeError::Arguments(name, EXACTLY_ONE)),
    }
}

/// Relative to the working directory before.
fn workdir(config: &mut Map<String, Value>, rest: &str) -> Result<(), ChangeError> {
    if rest.is_empty() {
        return Err(ChangeError::Arguments("WORKDIR", EXACTLY_ONE));
    }
    // Blanks are part of it.
    let path = expanded("WORKDIR", &env_of(config), rest, |_| false)?.concat();
    let before = config.get("WorkingDir").and_then(Value::as_str);
    let path = match path.starts_with('/') {
        true => path,
        false => format!("/{}/{path}", before.unwrap_or_default()),
    };
    let path = crate::model::copy::clean(path.as_bytes());
    config.insert("WorkingDir".into(), String::from_utf8_lossy(&path).into());
    Ok(())
}

/// Takes a list out of the config; an empty one where it has none.
fn taken_list(config: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match config.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// Sets a key of an object in the config, which is made where it has none.
fn put(config: &mut Map<String, Value>, key: &str, name: String, value: Value) {
    let mut object = match config.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    object.insert(name, value);
    config.insert(key.to_owned(), object.into());
}

/// The environment that the config has so far.
fn env_of(config: &Map<String, Value>) -> Vec<(String, String)> {
    let list = config.get("Env").and_then(Value::as_array);
    let entries = list.into_iter().flatten().filter_map(Value::as_str);
    let pairs = entries.filter_map(|entry| entry.split_once('='));
    pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// `NAME=value NAME="other value"`, or in the old form one `NAME value with blanks`.
fn assignments(
    name: &'static str,
    config: &Map<String, Value>,
    rest: &str,
) -> Result<Vec<(String, String)>, ChangeError> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if first.is_empty() {
        return Err(ChangeError::Arguments(name, AT_LEAST_ONE));
    }
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(ChangeError::Syntax(
                name,
                "must have two arguments".to_owned(),
            ));
        };
        let value = expanded(name, &env_of(config), value.trim(), |_| false)?.concat();
        return Ok(vec![(key.to_owned(), value)]);
    }
    let words = words(name, config, rest)?.into_iter();
    words
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err(ChangeError::NoAssignment(word)),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        })
        .collect()
}

/// At least one word.
fn words(
    name: &'static str,
    config: &Map<String, Value>,
    rest: &str,
) -> Result<Vec<String>, ChangeError> {
    let words = expanded(name, &env_of(config), rest, char::is_whitespace)?;
    match words.is_empty() {
        true => Err(ChangeError::Arguments(name, AT_LEAST_ONE)),
        false => Ok(words),
    }
}

/// Takes quotes, backslashes and variables out of a text, and splits it where `splits` says.
fn expanded(
    name: &'static str,
    env: &[(String, String)],
    text: &str,
    splits: fn(char) -> bool,
) -> Result<Vec<String>, ChangeError> {
    let unfinished = |what: &str| ChangeError::Syntax(name, format!("unexpected end of {what}"));
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && splits(c) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            ('\\', None) => word.extend(chars.next()),
            ('\\', Some('"')) => match chars.next() {
                Some(c @ ('"' | '\\' | '$')) => word.push(c),
                other => {
                    word.push('\\');
                    word.extend(other);
                }
            },
            ('$', None | Some('"')) => {
                let mut variable = String::new();
                let in_braces = chars.next_if_eq(&'{').is_some();
                let is_of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
                while let Some(c) = chars.next_if(is_of_name) {
                    variable.push(c);
                }
                if variable.is_empty() && !in_braces {
                    word.push('$');
                    continue;
                }
                let value = env.iter().rfind(|(n, _)| *n == variable).map(|(_, v)| v);
                if !in_braces {
                    word.extend(value.map(String::as_str));
                    continue;
                }
                let mut modifier = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some(c) => modifier.push(c),
                        None => return Err(unfinished("a variable")),
                    }
                }
                let value = value.map(String::as_str).unwrap_or_default();
                let default = modifier.strip_prefix(":-");
                let other = modifier.strip_prefix(":+");
                match (default, other) {
                    _ if modifier.is_empty() => word.push_str(value),
                    (Some(default), _) if value.is_empty() => word.push_str(default),
                    (Some(_), _) => word.push_str(value),
                    (_, Some(_)) if value.is_empty() => {}
                    (_, Some(other)) => word.push_str(other),
                    (None, None) => {
                        let why = format!("unsupported modifier ({modifier}) in substitution");
                        return Err(ChangeError::Syntax(name, why));
                    }
                }
            }
            (c, _) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(unfinished("a quoted word"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(before: Value, changes: &[&str]) -> Result<Value, ChangeError> {
        let mut config = before.as_object().unwrap().clone();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config.into())
    }

    #[test]
    fn each_instruction() {
        let before = json!({"Env": ["A=b", "PATH=/bin"], "Cmd": ["old"], "WorkingDir": "/srv"});
        for (change, key, value) in [
            (r#"CMD ["a", "b c"]"#, "Cmd", json!(["a", "b c"])),
            ("cmd a b  c", "Cmd", json!(["/bin/sh", "-c", "a b  c"])),
            (r#"ENTRYPOINT ["x"]"#, "Entrypoint", json!(["x"])),
            (r#"ENTRYPOINT ["x"]"#, "Cmd", Value::Null),
            ("ENV A=c", "Env", json!(["A=c", "PATH=/bin"])),
            ("ENV A c d", "Env", json!(["A=c d", "PATH=/bin"])),
            (
                r#"ENV X="1 2" Y='$A' Z=$A-${A}q W=\$A"#,
                "Env",
                json!(["A=b", "PATH=/bin", "X=1 2", "Y=$A", "Z=b-bq", "W=$A"]),
            ),
            (
                "ENV X=${NO:-d} Y=${A:-d} Z=${A:+set}.${NO:+set}",
                "Env",
                json!(["A=b", "PATH=/bin", "X=d", "Y=b", "Z=set."]),
            ),
            (
                "EXPOSE 80 53/udp",
                "ExposedPorts",
                json!({"80/tcp": {}, "53/udp": {}}),
            ),
            (
                "EXPOSE 7-8",
                "ExposedPorts",
                json!({"7/tcp": {}, "8/tcp": {}}),
            ),
            (
                "LABEL a=1 b.c=\"2 3\"",
                "Labels",
                json!({"a": "1", "b.c": "2 3"}),
            ),
            ("LABEL a one two", "Labels", json!({"a": "one two"})),
            ("VOLUME /a $A", "Volumes", json!({"/a": {}, "b": {}})),
            (r#"VOLUME ["/a b"]"#, "Volumes", json!({"/a b": {}})),
            ("USER 1:$A", "User", json!("1:b")),
            ("STOPSIGNAL SIGINT", "StopSignal", json!("SIGINT")),
            ("WORKDIR a/../b c", "WorkingDir", json!("/srv/b c")),
            ("WORKDIR /$A/", "WorkingDir", json!("/b")),
            ("ONBUILD RUN x $A", "OnBuild", json!(["RUN x $A"])),
        ] {
            let after = applied(before.clone(), &[change]).unwrap();
            assert_eq!(after[key], value, "{change}");
        }
    }

    #[test]
    fn in_their_order() {
        let after = applied(
            json!({}),
            &[
                "CMD a",
                "ENTRYPOINT b\nENV X=1",
                "# no",
                "ENV Y=$X",
                "ONBUILD A",
                "ONBUILD B",
            ],
        );
        let after = after.unwrap();
        assert_eq!(after["Cmd"], json!(["/bin/sh", "-c", "a"]));
        assert_eq!(after["Env"], json!(["X=1", "Y=1"]));
        assert_eq!(after["OnBuild"], json!(["A", "B"]));
    }

    #[test]
    fn refused() {
        for (change, why) in [
            ("RUN x", "RUN is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV a", "ENV: must have two arguments"),
            (
                "ENV a=b c",
                "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            ),
            ("ENV a='b", "ENV: unexpected end of a quoted word"),
            ("ENV a=${b", "ENV: unexpected end of a variable"),
            (
                "ENV a=${b?c}",
                "ENV: unsupported modifier (?c) in substitution",
            ),
            ("USER a b", "USER requires exactly one argument"),
            ("EXPOSE x", "EXPOSE: invalid containerPort: x"),
            ("EXPOSE 9-8", "EXPOSE: invalid containerPort: 9-8"),
            ("EXPOSE 80/x", "EXPOSE: invalid proto: x"),
            ("VOLUME", "VOLUME requires at least one argument"),
            ("VOLUME []", "VOLUME requires at least one argument"),
            (
                "ONBUILD onbuild x",
                "ONBUILD: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ),
            ("CMD", "CMD requires at least one argument"),
        ] {
            let error = applied(json!({}), &[change]).unwrap_err();
            assert_eq!(error.to_string(), why, "{change}");
        }
    }
}
