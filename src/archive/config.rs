//! An image's config: what the store and the containers need of it. Pure.
//!
//! [OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md), which Docker's is
//! but for names of things that are not read here. Read tolerantly: whatever is absent or `null` is empty; only the
//! diff IDs must be right.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::json::{self, List, MAX_LAYERS, Map, or_default};
use crate::model::DiffId;

/// What an image's config says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `GOARCH`, such as `amd64`.
    pub architecture: String,
    /// `GOOS`, such as `linux`.
    pub os: String,
    /// The variant of the CPU, such as `v8`, or empty.
    pub variant: String,
    /// When it was made, as it stands there (RFC 3339), or empty.
    pub created: String,
    /// Who made it, or empty.
    pub author: String,
    /// How its containers run.
    pub config: RunConfig,
    /// The digests of the layers' uncompressed tars, the lowest first.
    pub diff_ids: Vec<DiffId>,
    /// How it came about, the oldest first.
    pub history: Vec<History>,
}

/// How containers of an image run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunConfig {
    /// User, or `user:group`, by names or numbers; empty: root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments; `None` where the config has none.
    pub entrypoint: Option<Vec<String>>,
    /// The default arguments, or the program where there is no entry point.
    pub cmd: Option<Vec<String>>,
    /// The working directory, or empty.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths of volumes.
    pub volumes: Vec<String>,
    /// The signal that ends it, or empty.
    pub stop_signal: String,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When (RFC 3339), or empty.
    pub created: String,
    /// By which command, or empty.
    pub created_by: String,
    /// By whom, or empty.
    pub author: String,
    /// A remark, or empty.
    pub comment: String,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a config; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, String> {
        let raw: RawConfig = json::read(bytes)?;
        let Some(rootfs) = raw.rootfs else {
            return Err("not an image's config: no rootfs in it".to_owned());
        };
        if !matches!(rootfs.kind.as_str(), "layers" | "") {
            return Err(format!("a rootfs of the unknown type {:?}", rootfs.kind));
        }
        let diff_ids = rootfs.diff_ids.0.iter().map(|text| text.parse());
        let run = raw.config;
        Ok(ImageConfig {
            architecture: raw.architecture,
            os: raw.os,
            variant: raw.variant,
            created: raw.created,
            author: raw.author,
            config: RunConfig {
                user: run.user,
                env: run.env.0,
                entrypoint: run.entrypoint.map(|l| l.0),
                cmd: run.cmd.map(|l| l.0),
                working_dir: run.working_dir,
                labels: run.labels.0,
                exposed_ports: run.exposed_ports.0.into_keys().collect(),
                volumes: run.volumes.0.into_keys().collect(),
                stop_signal: run.stop_signal,
            },
            diff_ids: diff_ids
                .collect::<Result<_, _>>()
                .map_err(|e: crate::model::ParseIdError| e.to_string())?,
            history: raw.history.0.into_iter().map(History::from).collect(),
        })
    }
}

impl From<RawHistory> for History {
    fn from(raw: RawHistory) -> History {
        History {
            created: raw.created,
            created_by: raw.created_by,
            author: raw.author,
            comment: raw.comment,
            empty_layer: raw.empty_layer,
        }
    }
}

type Strings = List<String, 16_384>;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    variant: String,
    #[serde(deserialize_with = "or_default")]
    created: String,
    #[serde(deserialize_with = "or_default")]
    author: String,
    #[serde(deserialize_with = "or_default")]
    config: RawRun,
    rootfs: Option<RawRootFs>,
    #[serde(deserialize_with = "or_default")]
    history: List<RawHistory, 4096>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct RawRun {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    env: Strings,
    entrypoint: Option<Strings>,
    cmd: Option<Strings>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    labels: Map<String>,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: Map<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    volumes: Map<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    stop_signal: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRootFs {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    diff_ids: List<String, MAX_LAYERS>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHistory {
    #[serde(deserialize_with = "or_default")]
    created: String,
    #[serde(deserialize_with = "or_default")]
    created_by: String,
    #[serde(deserialize_with = "or_default")]
    author: String,
    #[serde(deserialize_with = "or_default")]
    comment: String,
    #[serde(deserialize_with = "or_default")]
    empty_layer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_empty() {
        for text in [
            r#"{"rootfs":{}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":null},"config":null,"history":null,"os":null}"#,
            r#"{"rootfs":{"type":null},"config":{"Env":null,"Cmd":null,"Labels":null,"Volumes":null}}"#,
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(config, ImageConfig::default(), "{text}");
        }
    }

    #[test]
    fn a_full_one() {
        let text = format!(
            r#"{{"architecture":"arm64","variant":"v8","os":"linux","created":"2024-01-02T03:04:05Z",
            "config":{{"Env":["A=b"],"Cmd":["sh","-c","x"],"Entrypoint":[],"WorkingDir":"/w",
            "Labels":{{"k":"v"}},"ExposedPorts":{{"80/tcp":{{}}}},"User":"1:2","StopSignal":"SIGINT",
            "Unknown":[1,2]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{0}"]}},
            "history":[{{"created_by":"COPY","empty_layer":true}},{{}}]}}"#,
            "ab".repeat(32)
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.variant, "v8");
        assert_eq!(config.config.entrypoint, Some(vec![]));
        assert_eq!(config.config.cmd.unwrap(), ["sh", "-c", "x"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.diff_ids[0].hex(), "ab".repeat(32));
        assert!(config.history[0].empty_layer && !config.history[1].empty_layer);
    }

    #[test]
    fn refused() {
        let many = format!(
            r#"{{"rootfs":{{"diff_ids":[{}""]}}}}"#,
            r#""sha256:0","#.repeat(512)
        );
        for (text, why) in [
            ("", "invalid JSON"),
            ("7", "invalid JSON"),
            ("{}", "no rootfs"),
            (r#"{"rootfs":{"type":"windows"}}"#, "unknown type"),
            (r#"{"rootfs":{"diff_ids":["sha512:00"]}}"#, "only sha256"),
            (r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#, "64 hexadecimal"),
            (&many, "a list of more than 512"),
        ] {
            let error = ImageConfig::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
