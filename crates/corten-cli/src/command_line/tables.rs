//! Every command with its flags.

mod image;
mod run;

use super::flag::{Flag, many, one, switch};
use super::{Command, Group, containers};
use crate::commands;

/// Words that lead to further commands.
pub(crate) const GROUPS: [Group; 7] = [
    Group { name: "artifact", about: "Manage artifacts in registries" },
    Group { name: "container", about: "Manage containers" },
    Group { name: "generate", about: "Write files for other programs" },
    Group { name: "image", about: "Manage images" },
    Group { name: "manifest", about: "Manage lists of manifests" },
    Group { name: "registry", about: "Serve images to others" },
    Group { name: "system", about: "Manage Corten" },
];

/// Flags before the command.
pub(crate) const GLOBALS: &[Flag] = &[
    one("root", "DIR", "Durable state [default: /var/lib/corten, or $XDG_DATA_HOME/corten]"),
    one("run-root", "DIR", "Run state [default: /run/corten, or $XDG_RUNTIME_DIR/corten]"),
    one("layer-form", "FORM", "Form of new layers, `directory` or `erofs` [default: the faster one that works here]"),
    switch("systemd-cgroup", "Let systemd make the cgroups"),
    switch("version", "Show the version").short('v'),
    one("config", "DIR", "Client configuration").later("Corten reads no client configuration"),
    one("context", "NAME", "Context").short('c').later("Corten works on this machine alone"),
    switch("debug", "Debug mode").short('D').later("errors name every cause without it"),
    many("host", "URL", "Daemon socket").short('H').later("there is no daemon: the command does the work itself"),
    one("log-level", "LEVEL", "Logging level").short('l').later("errors name every cause without it"),
    switch("tls", "Use TLS").later("there is no daemon to connect to"),
    one("tlscacert", "FILE", "Trusted certificates").later("there is no daemon to connect to"),
    one("tlscert", "FILE", "TLS certificate").later("there is no daemon to connect to"),
    one("tlskey", "FILE", "TLS key").later("there is no daemon to connect to"),
    switch("tlsverify", "Use TLS and verify").later("there is no daemon to connect to"),
];

/// The program itself: its flags come before the command.
pub(crate) static PROGRAM: Command = Command {
    path: &[],
    aliases: &[],
    about: "The container stack as one program",
    operands: "COMMAND",
    arity: (0, ANY),
    ends_at_operand: true,
    flags: GLOBALS,
    notes: "",
    hidden: false,
    run: commands::documents::help,
};

pub(in crate::command_line) const TLS_VERIFY: Flag =
    switch("tls-verify", "Demand https with a valid certificate (default true)");
const MIRROR: Flag = many("mirror", "URL", "Ask this registry first");
const PROGRESS: Flag = one("progress", "MODE", "auto, plain or json");
const CONTENT_TRUST: Flag =
    switch("disable-content-trust", "Skip image verification (default true)").later_unless(&["true"], SIGNATURES);
const SIGNATURES: &str = "what must be signed is said in policy.toml";

const PULL: &[Flag] = &[
    switch("all-platforms", "Pull the images of every platform"),
    switch("all-tags", "Pull every tag of the repository").short('a'),
    CONTENT_TRUST,
    MIRROR,
    one("platform", "OS/ARCH[/VARIANT]", "Pull the image of this platform"),
    PROGRESS,
    switch("quiet", "Print the name alone").short('q'),
    TLS_VERIFY,
];

const COMPRESSION_FORMAT: Flag =
    one("compression-format", "FORMAT", "Compress layers that are plain here: gzip or zstd [default: as they are]");
const COMPRESSION_LEVEL: Flag = one("compression-level", "LEVEL", "1 to 9 for gzip, 1 to 20 for zstd");

const PUSH: &[Flag] = &[
    switch("all-tags", "Push every tag of the repository").short('a'),
    COMPRESSION_FORMAT,
    COMPRESSION_LEVEL,
    CONTENT_TRUST,
    one("platform", "OS/ARCH[/VARIANT]", "Push the image of this platform alone"),
    PROGRESS,
    switch("quiet", "Print the name alone").short('q'),
    TLS_VERIFY,
];

const LOGIN: &[Flag] = &[
    one("password", "PASSWORD", "Password, or a token").short('p'),
    switch("password-stdin", "Read the password from standard input"),
    one("username", "NAME", "User name").short('u'),
    TLS_VERIFY,
];

const COPY: &[Flag] = &[
    switch("all", "Copy the images of every platform").short('a'),
    one("platform", "OS/ARCH[/VARIANT]", "Copy the image of this platform"),
    PROGRESS,
    switch("quiet", "Print nothing").short('q'),
    TLS_VERIFY,
];

const SEARCH: &[Flag] = &[
    many("filter", "NAME=VALUE", "is-automated, is-official, stars").short('f'),
    one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
    one("limit", "NUMBER", "Most results (default 25)"),
    switch("no-trunc", "Show whole descriptions"),
    TLS_VERIFY,
];

const ARTIFACT_TYPE: Flag = one("artifact-type", "TYPE", "Type of the artifact");
const ARTIFACT_PUSH: &[Flag] = &[
    many("annotation", "NAME=VALUE", "Annotation of the manifest").short('a'),
    ARTIFACT_TYPE,
    PROGRESS,
    switch("quiet", "Print the digest alone").short('q'),
    TLS_VERIFY,
];
const ARTIFACT_PULL: &[Flag] = &[
    one("output", "DIR", "Write the files here [default: .]").short('o'),
    switch("overwrite", "Replace files that are there"),
    PROGRESS,
    switch("quiet", "Print the names alone").short('q'),
    TLS_VERIFY,
];
const ARTIFACT_LS: &[Flag] = &[ARTIFACT_TYPE, TLS_VERIFY];

const INSECURE: Flag = switch("insecure", "Allow a registry without TLS or with an unknown certificate");
const MANIFEST_CREATE: &[Flag] = &[switch("amend", "Add to a list that exists").short('a'), INSECURE];
const MANIFEST_ANNOTATE: &[Flag] = &[
    one("arch", "ARCH", "Architecture"),
    one("os", "OS", "Operating system"),
    many("os-features", "FEATURE", "Needed feature of the operating system"),
    one("os-version", "VERSION", "Version of the operating system"),
    one("variant", "VARIANT", "Variant of the architecture"),
];
const MANIFEST_INSPECT: &[Flag] =
    &[INSECURE, switch("verbose", "More of each manifest").short('v').later("inspect each manifest by its digest")];
const MANIFEST_PUSH: &[Flag] = &[INSECURE, switch("purge", "Forget the list when it is pushed").short('p')];

const LOAD: &[Flag] = &[
    one("input", "FILE", "Read the archive from a file instead of standard input").short('i'),
    switch("quiet", "Print no progress").short('q'),
    one("platform", "OS/ARCH", "Load only this platform"),
];

const IMAGES: &[Flag] = &[
    switch("all", "Show all images, as is done without it: no intermediate ones are kept").short('a'),
    switch("digests", "Show digests"),
    many("filter", "NAME=VALUE", "before, dangling, label, reference, since, until").short('f'),
    one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
    switch("no-trunc", "Show whole ids"),
    switch("quiet", "Show ids alone").short('q'),
    switch("tree", "Show platforms as a tree"),
];

const PS: &[Flag] = &[
    switch("all", "Show containers in every state, not only running ones").short('a'),
    many("filter", "NAME=VALUE", "ancestor, before, exited, health, id, label, name, network, since, status, volume")
        .short('f'),
    one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
    one("last", "NUMBER", "Show the newest NUMBER containers in every state").short('n'),
    switch("latest", "Show the newest container in any state").short('l'),
    switch("no-trunc", "Show whole values"),
    switch("quiet", "Show ids alone").short('q'),
    switch("size", "Show sizes").short('s'),
];

const RM: &[Flag] = &[
    switch("force", "Kill a running container first").short('f'),
    switch("link", "Remove a link").short('l').later("links come with networks"),
    one("time", "SECONDS", "With --force: seconds between the stop signal and SIGKILL; without it SIGKILL at once")
        .short('t'),
    // There are no anonymous volumes yet, so nothing is left out.
    switch("volumes", "Remove anonymous volumes too").short('v'),
];

const RMI: &[Flag] = &[
    switch("force", "Remove even where several names or stopped containers need it").short('f'),
    switch("no-prune", "Keep what the image consisted of until the next removal or prune"),
    one("platform", "OS/ARCH", "Remove only this platform"),
];

const FORMAT: Flag = one("format", "FORMAT", "json or a Go template").short('f');
const SIZE: Flag = switch("size", "Show what containers wrote, and their size in all").short('s');

const INSPECT: &[Flag] = &[FORMAT, SIZE, one("type", "TYPE", "container or image")];
const INSPECT_CONTAINER: &[Flag] = &[FORMAT, SIZE];
const INSPECT_IMAGE: &[Flag] = &[FORMAT, one("platform", "OS/ARCH", "Inspect this platform")];
const FORMATTED: &[Flag] = &[FORMAT];

const DATA: Flag = one("data", "DIR", "A store of the registry's own instead of the engine's");
const CONFIG: Flag = one("config", "FILE", "Configuration file (docs/guides/registry.md)");

const REGISTRY_SERVE: &[Flag] = &[
    many("listen", "ADDRESS", "HOST:PORT, :PORT or unix:PATH; several times for several [default: 127.0.0.1:5000]"),
    CONFIG,
    DATA,
    one("name", "HOST[:PORT]", "What the registry is called in references [default: from --listen]"),
    one("tls-cert", "FILE", "Certificate, PEM"),
    one("tls-key", "FILE", "Key of the certificate, PEM"),
    one("htpasswd", "FILE", "Users and passwords, as `htpasswd -B` writes them"),
    switch("allow-anonymous", "Serve other machines without asking who they are"),
    switch("allow-plain-http", "Serve other machines without TLS"),
    switch("read-only", "Refuse every write"),
    switch("share-images", "Serve the engine's images by their names, for reading [default: true without --data]"),
    one("metrics-listen", "ADDRESS", "Another address for /metrics alone"),
    one("access-log", "FILE", "Write a line for each request to a file, or to standard error: -"),
];
const REGISTRY_GC: &[Flag] = &[
    CONFIG,
    DATA,
    one("grace", "SPAN", "Keep blobs that no manifest names for so long [default: 24h]"),
    one("untagged-after", "SPAN", "Remove manifests that no tag, index or subject names after so long"),
];
const REGISTRY_LIST: &[Flag] = &[
    CONFIG,
    DATA,
    one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
    switch("no-trunc", "Show whole digests"),
    switch("quiet", "Show names alone").short('q'),
];
const REGISTRY_USAGE: &[Flag] =
    &[CONFIG, DATA, one("format", "FORMAT", "table, table TEMPLATE, json or a Go template")];

pub(super) const ANY: usize = usize::MAX;

/// A command's row; what most rows leave as it is.
pub(super) const fn command(
    path: &'static [&'static str],
    about: &'static str,
    run: fn(&mut commands::Context<'_>, &super::Parsed) -> Result<u8, crate::Failure>,
) -> Command {
    Command {
        path,
        aliases: &[],
        about,
        operands: "",
        arity: (0, 0),
        ends_at_operand: false,
        flags: &[],
        notes: "",
        hidden: false,
        run,
    }
}

const RUN_COMMAND: Command = Command {
    operands: "IMAGE [COMMAND] [ARG...]",
    arity: (1, ANY),
    ends_at_operand: true,
    flags: run::RUN,
    notes: "\
IMAGE is one of
  hello                     the image inside the binary: shows what isolates it
  host                      this machine's own root, read-only below a throw-away layer
  NAME[:TAG], ID            an image of the store (`corten load`, `corten images`)
  oci:DIR[:TAG]             an OCI layout on disk
  docker-archive:FILE[:REF] what `docker save` writes
  DIR, with --rootfs        a directory that is the root itself

The exit code is the program's; 125 says that Corten failed, 126 that the program cannot be
executed, 127 that there is no such program, 128+N that signal N killed it.",
    ..command(&["run"], "Create and start a container", commands::run::run)
};
const PS_COMMAND: Command = Command { flags: PS, ..command(&["ps"], "List containers", commands::ps::run) };
const RM_COMMAND: Command = Command {
    operands: "CONTAINER [CONTAINER...]",
    arity: (1, ANY),
    flags: RM,
    ..command(&["rm"], "Remove containers", commands::rm::run)
};
const LOAD_COMMAND: Command =
    Command { flags: LOAD, ..command(&["load"], "Load images from an archive", commands::load::run) };
const IMAGES_COMMAND: Command = Command {
    operands: "[REPOSITORY[:TAG]]",
    arity: (0, 1),
    flags: IMAGES,
    ..command(&["images"], "List images", commands::images::run)
};
const RMI_COMMAND: Command = Command {
    operands: "IMAGE [IMAGE...]",
    arity: (1, ANY),
    flags: RMI,
    ..command(&["rmi"], "Remove images", commands::rmi::run)
};
const TAG_COMMAND: Command = Command {
    operands: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    arity: (2, 2),
    ..command(&["tag"], "Give an image a further name", commands::tag::run)
};
const PULL_COMMAND: Command = Command {
    operands: "NAME[:TAG|@DIGEST]",
    arity: (1, 1),
    flags: PULL,
    ..command(&["pull"], "Download an image from a registry", commands::pull::run)
};
const PUSH_COMMAND: Command = Command {
    operands: "NAME[:TAG]",
    arity: (1, 1),
    flags: PUSH,
    ..command(&["push"], "Upload an image to a registry", commands::push::run)
};
const UNMOUNT: &[Flag] = &[switch("all", "Unmount every image").short('a')];
const INFO_COMMAND: Command = Command {
    flags: FORMATTED,
    ..command(&["info"], "Show what this machine and this engine are", commands::info::run)
};

const CREATE_COMMAND: Command = Command {
    operands: "IMAGE [COMMAND] [ARG...]",
    arity: (1, ANY),
    ends_at_operand: true,
    flags: &run::CREATE,
    ..command(&["create"], "Create a container", commands::run::create)
};

/// Every command, in the order of help.
pub(crate) static COMMANDS: &[Command] = &[
    RUN_COMMAND,
    containers::EXEC,
    PS_COMMAND,
    CREATE_COMMAND,
    containers::START,
    containers::STOP,
    containers::RESTART,
    containers::KILL,
    containers::PAUSE,
    containers::UNPAUSE,
    containers::WAIT,
    RM_COMMAND,
    containers::RENAME,
    containers::ATTACH,
    containers::LOGS,
    containers::UPDATE,
    containers::TOP,
    containers::STATS,
    containers::PORT,
    containers::WHY,
    containers::USAGE,
    containers::EVENTS,
    containers::BOOT,
    Command {
        operands: "NAME|ID [NAME|ID...]",
        arity: (1, ANY),
        flags: INSPECT,
        ..command(&["inspect"], "Show containers and images in full", commands::inspect::run)
    },
    LOAD_COMMAND,
    IMAGES_COMMAND,
    RMI_COMMAND,
    TAG_COMMAND,
    PULL_COMMAND,
    PUSH_COMMAND,
    Command {
        operands: "[SERVER]",
        arity: (0, 1),
        flags: LOGIN,
        ..command(&["login"], "Authenticate to a registry", commands::login::run)
    },
    Command { operands: "[SERVER]", arity: (0, 1), ..command(&["logout"], "Forget a login", commands::login::logout) },
    image::HISTORY,
    image::SAVE,
    image::IMPORT,
    image::EXPORT,
    INFO_COMMAND,
    Command { flags: FORMATTED, ..command(&["version"], "Show the version", commands::version::run) },
    Command {
        operands: "bash|elvish|fish|powershell|zsh",
        arity: (1, 1),
        notes: "For bash: `corten completion bash >/etc/bash_completion.d/corten`",
        ..command(&["completion"], "Print completions for a shell", commands::documents::completion)
    },
    Command {
        operands: "DIRECTORY",
        arity: (1, 1),
        hidden: true,
        ..command(&["man"], "Write man pages into a directory", commands::documents::man)
    },
    Command {
        operands: "[COMMAND...]",
        arity: (0, ANY),
        ..command(&["help"], "Show help of a command", commands::documents::help)
    },
    Command {
        operands: "TERM",
        arity: (1, 1),
        flags: SEARCH,
        ..command(&["search"], "Search a registry", commands::search::run)
    },
    Command {
        operands: "SOURCE DESTINATION",
        arity: (2, 2),
        flags: COPY,
        notes: "\
SOURCE and DESTINATION are one of
  docker://NAME[:TAG|@DIGEST]    a registry
  store:NAME                     the images here
  oci:DIR[:TAG]                  an OCI layout
  dir:DIR                        skopeo's plain directory
  oci-archive:FILE[:TAG]         a tar of an OCI layout
  docker-archive:FILE[:NAME:TAG] what `docker load` and `podman load` read",
        ..command(
            &["copy"],
            "Copy an image between registries, the store, directories and archives",
            commands::copy::run,
        )
    },
    Command {
        operands: "NAME[:TAG] [FILE[:TYPE]...]",
        arity: (1, ANY),
        flags: ARTIFACT_PUSH,
        ..command(&["artifact", "push"], "Push files as an artifact", commands::artifact::push)
    },
    Command {
        operands: "NAME[:TAG|@DIGEST]",
        arity: (1, 1),
        flags: ARTIFACT_PULL,
        ..command(&["artifact", "pull"], "Write the files of an artifact", commands::artifact::pull)
    },
    Command {
        operands: "NAME[:TAG|@DIGEST] [FILE[:TYPE]...]",
        arity: (1, ANY),
        flags: ARTIFACT_PUSH,
        ..command(&["artifact", "attach"], "Attach files to an image or an artifact", commands::artifact::attach)
    },
    Command {
        operands: "NAME[:TAG|@DIGEST]",
        arity: (1, 1),
        flags: ARTIFACT_LS,
        ..command(&["artifact", "ls"], "List what is attached", commands::artifact::ls)
    },
    Command {
        operands: "NAME[:TAG|@DIGEST] [NAME...]",
        arity: (1, ANY),
        flags: &[TLS_VERIFY],
        notes: "An image goes the same way. Every tag that points to it goes too.",
        ..command(&["artifact", "rm"], "Remove an artifact from its registry", commands::artifact::rm)
    },
    Command {
        operands: "LIST MANIFEST [MANIFEST...]",
        arity: (2, ANY),
        flags: MANIFEST_CREATE,
        ..command(&["manifest", "create"], "Make a list of manifests", commands::manifest::create)
    },
    Command {
        operands: "LIST MANIFEST",
        arity: (2, 2),
        flags: MANIFEST_ANNOTATE,
        ..command(&["manifest", "annotate"], "Say for which platform a manifest is", commands::manifest::annotate)
    },
    Command {
        operands: "[LIST] MANIFEST",
        arity: (1, 2),
        flags: MANIFEST_INSPECT,
        ..command(&["manifest", "inspect"], "Show a manifest or a list", commands::manifest::inspect)
    },
    Command {
        operands: "LIST",
        arity: (1, 1),
        flags: MANIFEST_PUSH,
        ..command(&["manifest", "push"], "Push a list of manifests", commands::manifest::push)
    },
    Command {
        operands: "LIST [LIST...]",
        arity: (1, ANY),
        ..command(&["manifest", "rm"], "Forget lists of manifests", commands::manifest::rm)
    },
    Command { path: &["container", "run"], ..RUN_COMMAND },
    Command { path: &["container", "exec"], ..containers::EXEC },
    Command { path: &["container", "create"], ..CREATE_COMMAND },
    Command { path: &["container", "start"], ..containers::START },
    Command { path: &["container", "stop"], ..containers::STOP },
    Command { path: &["container", "restart"], ..containers::RESTART },
    Command { path: &["container", "kill"], ..containers::KILL },
    Command { path: &["container", "pause"], ..containers::PAUSE },
    Command { path: &["container", "unpause"], ..containers::UNPAUSE },
    Command { path: &["container", "wait"], ..containers::WAIT },
    Command { path: &["container", "rename"], ..containers::RENAME },
    Command { path: &["container", "attach"], ..containers::ATTACH },
    Command { path: &["container", "logs"], ..containers::LOGS },
    Command { path: &["container", "update"], ..containers::UPDATE },
    Command { path: &["container", "top"], ..containers::TOP },
    Command { path: &["container", "stats"], ..containers::STATS },
    Command { path: &["container", "port"], ..containers::PORT },
    containers::GENERATE_SYSTEMD,
    containers::PRUNE,
    Command { path: &["system", "events"], ..containers::EVENTS },
    Command { path: &["container", "ls"], aliases: &["ps", "list"], ..PS_COMMAND },
    Command { path: &["container", "rm"], aliases: &["remove"], ..RM_COMMAND },
    Command {
        operands: "CONTAINER [CONTAINER...]",
        arity: (1, ANY),
        flags: INSPECT_CONTAINER,
        ..command(&["container", "inspect"], "Show containers in full", commands::inspect::containers)
    },
    Command { path: &["image", "ls"], aliases: &["list"], ..IMAGES_COMMAND },
    Command { path: &["image", "load"], ..LOAD_COMMAND },
    Command {
        operands: "[IMAGE [DIRECTORY]]",
        arity: (0, 2),
        notes: "Without a directory the engine makes one and prints it; without an image the mounted ones are listed.",
        ..command(&["image", "mount"], "Mount an image on the host, read-only", commands::image_mount::mount)
    },
    Command { path: &["image", "pull"], ..PULL_COMMAND },
    Command { path: &["image", "push"], ..PUSH_COMMAND },
    Command { path: &["container", "export"], ..image::EXPORT },
    Command { path: &["image", "history"], ..image::HISTORY },
    Command { path: &["image", "import"], ..image::IMPORT },
    Command { path: &["image", "save"], ..image::SAVE },
    image::PRUNE,
    image::LOG,
    image::ROLLBACK,
    image::SQUASH,
    image::DIFF,
    image::VERIFY,
    image::FSCK,
    Command { path: &["image", "rm"], aliases: &["remove"], ..RMI_COMMAND },
    Command { path: &["image", "tag"], ..TAG_COMMAND },
    Command {
        operands: "[IMAGE|DIRECTORY...]",
        arity: (0, ANY),
        aliases: &["umount"],
        flags: UNMOUNT,
        ..command(&["image", "unmount"], "Unmount images", commands::image_mount::unmount)
    },
    Command {
        operands: "IMAGE [IMAGE...]",
        arity: (1, ANY),
        flags: INSPECT_IMAGE,
        ..command(&["image", "inspect"], "Show images in full", commands::inspect::images)
    },
    Command {
        flags: REGISTRY_SERVE,
        notes: "\
The registry serves the engine's own store: a tag `NAME/app:1` (`corten tag app NAME/app:1`) is served as
repository `app`, a push appears in `corten images`, and every image can be read by the name that it has.",
        ..command(&["registry", "serve"], "Run a registry", commands::registry::serve)
    },
    Command {
        operands: "[REPOSITORY]",
        arity: (0, 1),
        flags: REGISTRY_LIST,
        aliases: &["list"],
        ..command(&["registry", "ls"], "List repositories, or the tags of one", commands::registry::list)
    },
    Command {
        flags: REGISTRY_USAGE,
        ..command(&["registry", "usage"], "Show what repositories hold", commands::registry::usage)
    },
    Command {
        flags: REGISTRY_GC,
        ..command(&["registry", "gc"], "Remove what no repository needs", commands::registry::collect)
    },
    Command { path: &["system", "info"], ..INFO_COMMAND },
    image::SYSTEM_DF,
    image::SYSTEM_PRUNE,
    image::CHORES,
];

/// Docker's commands that are not here yet, so that they are refused by name.
pub(crate) const LATER: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "checkpoint",
    "commit",
    "compose",
    "config",
    "context",
    "cp",
    "diff",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "stack",
    "swarm",
    "trust",
    "volume",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_flag_and_no_command_has_two_meanings() {
        for command in COMMANDS.iter().chain([&PROGRAM]) {
            let (mut longs, mut shorts) = (BTreeSet::new(), BTreeSet::new());
            for flag in command.flags {
                let fresh = std::iter::once(&flag.long).chain(flag.aliases).all(|name| longs.insert(*name));
                assert!(
                    fresh && flag.short.is_none_or(|letter| shorts.insert(letter)),
                    "{} {}",
                    command.full_name(),
                    flag.long
                );
            }
        }
        let mut names = BTreeSet::new();
        for command in COMMANDS {
            let (last, groups) = command.path.split_last().unwrap();
            assert!(groups.iter().all(|group| GROUPS.iter().any(|known| known.name == *group)));
            for name in std::iter::once(last).chain(command.aliases) {
                assert!(names.insert((groups, *name)), "{groups:?} {name}");
                // `image diff` is Corten's own; docker's `diff` is another command.
                assert!(!groups.is_empty() || !LATER.contains(name), "{name} is here and is not");
            }
        }
    }
}
