//! The options that `create` and `run` share: what they make of an image's config.

use clap::ArgAction;

use super::context::Context;
use super::error::CommandError;
use crate::archive::ImageConfig;
use crate::container::bundle::{self, BundleError};
use crate::container::lifecycle::{self, LifecycleError, NewContainer};
use crate::container::runtime::Runtime;
use crate::image::{config, resolve};
use crate::model::settings::{Bind, Network, set_env};
use crate::model::{ContainerId, Settings, signal};

/// The options.
#[derive(Debug, clap::Args)]
pub struct ContainerOptions {
    /// The container's name; one is made up otherwise
    #[arg(long, allow_hyphen_values = true)]
    name: Option<String>,
    /// Set a variable; without a value, the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append)]
    env: Vec<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User name or ID, and group, of the image's /etc/passwd and /etc/group
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    user: Option<String>,
    /// Show a file or directory of the host in the container
    #[arg(short, long, value_name = "SRC:DST[:ro]", action = ArgAction::Append)]
    volume: Vec<String>,
    /// The container cannot write to its root directory
    #[arg(long)]
    read_only: bool,
    /// The program, instead of the image's; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when its process has ended
    #[arg(long)]
    pub rm: bool,
    /// The host's network, or one of its own with nothing but lo
    #[arg(long, alias = "net", value_enum, default_value_t)]
    network: NetworkArg,
    /// The name of its machine
    #[arg(long)]
    hostname: Option<String>,
    /// The signal that stops it, instead of the image's
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// The OCI runtime, by name or path: runc or crun, whichever is there
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<String>,
    /// Tag, ID, or unambiguous prefix of an ID
    image: String,
    /// The command, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The networks there are.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum NetworkArg {
    #[default]
    Host,
    None,
}

/// Make a container as the options say. One that is to run needs a command; others may be made only
/// for their view.
pub fn create(
    cx: &mut Context,
    options: &ContainerOptions,
    is_to_run: bool,
) -> Result<ContainerId, CommandError> {
    let snapshot = cx.snapshot()?;
    let image = resolve(&snapshot, &options.image)?.image;
    let config = match config::read(&cx.store, &image.id) {
        // Removed between the two looks.
        Err(e) if e.is_not_found() && !cx.db.read(|tx| tx.has_image(&image.id))? => {
            return Err(LifecycleError::NoSuchImage(options.image.clone()).into());
        }
        read => read?,
    };
    let settings = settings(options, config, |name| std::env::var(name).ok())?;
    if is_to_run && settings.command().is_empty() {
        return Err(BundleError::NoCommand.into());
    }
    bundle::check_binds(&settings)?;
    let new = NewContainer {
        // Docker's too: an empty name is none.
        name: options.name.as_deref().filter(|name| !name.is_empty()),
        image: &image.id,
        reference: &options.image,
        settings,
    };
    Ok(lifecycle::create(&mut cx.db, &cx.store, &new)?)
}

/// The image's config with the options over it. `caller` looks up variables of the caller's.
fn settings(
    options: &ContainerOptions,
    image: ImageConfig,
    caller: impl Fn(&str) -> Option<String>,
) -> Result<Settings, CommandError> {
    let image = image.config;
    let mut env = Vec::new();
    set_env(&mut env, image.env);
    set_variables(&mut env, &options.env, caller)?;
    let cmd = match options.command.is_empty() {
        false => options.command.clone(),
        // Arguments of another program make no sense for this one.
        true if options.entrypoint.is_some() => Vec::new(),
        true => image.cmd.unwrap_or_default(),
    };
    let entrypoint = match options.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => image.entrypoint.unwrap_or_default(),
    };
    let working_dir = options.workdir.clone().unwrap_or(image.working_dir);
    if !working_dir.is_empty() && !working_dir.starts_with('/') {
        return Err(CommandError::new(format!(
            "the working directory '{working_dir}' is invalid, it needs to be an absolute path"
        )));
    }
    let stop_signal = options.stop_signal.clone().unwrap_or(image.stop_signal);
    if options.stop_signal.is_some() {
        signal::number(&stop_signal)?;
    }
    if let Some(runtime) = &options.runtime {
        Runtime::find(runtime)?;
    }
    let binds = options.volume.iter().map(|volume| volume.parse::<Bind>());
    Ok(Settings {
        entrypoint,
        cmd,
        env,
        working_dir,
        user: options.user.clone().unwrap_or(image.user),
        binds: binds.collect::<Result<_, _>>()?,
        tty: options.tty,
        open_stdin: options.interactive,
        read_only: options.read_only,
        network: match options.network {
            NetworkArg::Host => Network::Host,
            NetworkArg::None => Network::None,
        },
        hostname: options.hostname.clone().unwrap_or_default(),
        stop_signal,
        auto_remove: options.rm,
        runtime: options.runtime.clone().unwrap_or_default(),
    })
}

/// Sets the variables of `-e`: `NAME=value` or, of the caller's, `NAME`.
pub fn set_variables(
    env: &mut Vec<String>,
    given: &[String],
    caller: impl Fn(&str) -> Option<String>,
) -> Result<(), CommandError> {
    for setting in given {
        match setting.split_once('=') {
            Some(("", _)) => {
                return Err(CommandError::new(format!(
                    "invalid environment variable: {setting}"
                )));
            }
            Some(_) => set_env(env, [setting.clone()]),
            None if setting.is_empty() => {
                return Err(CommandError::new("invalid environment variable: "));
            }
            None => match caller(setting) {
                Some(value) => set_env(env, [format!("{setting}={value}")]),
                // Docker's too: one that the caller does not have goes.
                None => env.retain(|old| !old.starts_with(&format!("{setting}="))),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::config::RunConfig;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn made(args: &[&str]) -> Result<Settings, String> {
        let line = Line::try_parse_from([&["run"], args].concat()).map_err(|e| e.to_string())?;
        let config = RunConfig {
            user: "app".into(),
            env: vec!["A=image".into(), "GONE=1".into(), "PATH=/bin".into()],
            entrypoint: Some(vec!["/entry".into(), "-x".into()]),
            cmd: Some(vec!["arg".into()]),
            working_dir: "/work".into(),
            stop_signal: "SIGINT".into(),
            ..RunConfig::default()
        };
        let image = ImageConfig {
            config,
            ..ImageConfig::default()
        };
        let caller = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        settings(&line.options, image, caller).map_err(|e| match e {
            CommandError::Message(text) => text,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn the_image_says_what_the_options_do_not() {
        let settings = made(&["app"]).unwrap();
        assert_eq!(settings.command(), ["/entry", "-x", "arg"]);
        assert_eq!(settings.env, ["A=image", "GONE=1", "PATH=/bin"]);
        assert_eq!(settings.user, "app");
        assert_eq!(settings.working_dir, "/work");
        assert_eq!(settings.stop_signal, "SIGINT");
        assert!(!settings.tty && !settings.auto_remove);
    }

    #[test]
    fn options_come_first() {
        let settings = made(&[
            "-e", "A=b", "-eHOME", "-eGONE", "-w/x", "-u", "0:0", "-it", "--rm", "app", "sh", "-c",
            "-x",
        ])
        .unwrap();
        assert_eq!(settings.command(), ["/entry", "-x", "sh", "-c", "-x"]);
        assert_eq!(settings.env, ["A=b", "PATH=/bin", "HOME=/root"]);
        assert_eq!(settings.user, "0:0");
        assert!(settings.tty && settings.open_stdin && settings.auto_remove);
        // Another program gets no arguments of the image's.
        let command = |args: &[&str]| made(args).unwrap().command();
        assert_eq!(command(&["--entrypoint", "/bin/ls", "app"]), ["/bin/ls"]);
        assert_eq!(command(&["--entrypoint=", "app", "id", "-u"]), ["id", "-u"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (args, why) in [
            (&["-w", "rel", "app"][..], "needs to be an absolute path"),
            (&["-e", "=x", "app"], "invalid environment variable: =x"),
            (&["-v", "a", "app"], "invalid volume specification: 'a'"),
            (&["--stop-signal", "NOPE", "app"], "Invalid signal: NOPE"),
            (&["--runtime", "/nope", "app"], "/nope"),
            (&["--network", "bridge", "app"], "invalid value"),
        ] {
            let error = made(args).unwrap_err();
            assert!(error.contains(why), "{args:?}: {error}");
        }
    }
}
