//! Commands of images.

use super::super::Command;
use super::super::flag::{Flag, many, one, switch};
use super::{ANY, COMPRESSION_FORMAT, COMPRESSION_LEVEL, TLS_VERIFY, command};
use crate::commands;

const PLATFORM: Flag = one("platform", "OS/ARCH", "Of several platforms, this one");
const OUTPUT: Flag = one("output", "FILE", "Write to a file instead of standard output").short('o');
const FORCE: Flag = switch("force", "Ask nothing").short('f');
const NO_TRUNC: Flag = switch("no-trunc", "Show whole values");

pub(super) const HISTORY: Command = Command {
    operands: "IMAGE",
    arity: (1, 1),
    flags: &[
        one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
        switch("human", "Sizes and times for people [default: true]").short('H'),
        NO_TRUNC,
        PLATFORM,
        switch("quiet", "Show ids alone").short('q'),
    ],
    ..command(&["history"], "Show how an image's layers came to be", commands::history::run)
};

pub(super) const SAVE: Command = Command {
    operands: "IMAGE [IMAGE...]",
    arity: (1, ANY),
    flags: &[OUTPUT, PLATFORM],
    ..command(&["save"], "Write images as an archive", commands::save::run)
};

pub(super) const IMPORT: Command = Command {
    operands: "FILE|URL|- [REPOSITORY[:TAG]]",
    arity: (1, 2),
    flags: &[
        COMPRESSION_FORMAT,
        COMPRESSION_LEVEL,
        many("change", "INSTRUCTION", "Apply an instruction of a Dockerfile (CMD, ENV, USER, …)").short('c'),
        one("message", "TEXT", "What the history says").short('m'),
        one("platform", "OS/ARCH", "What the image is for [default: this machine]"),
        TLS_VERIFY,
    ],
    notes: "An archive in gzip or zstd is kept as it came; one in xz or bzip2 is unpacked.",
    ..command(&["import"], "Make an image of the tar of a root file system", commands::import::run)
};

pub(super) const EXPORT: Command = Command {
    operands: "CONTAINER",
    arity: (1, 1),
    flags: &[OUTPUT],
    ..command(&["export"], "Write a container's root as a tar", commands::save::export)
};

pub(super) const PRUNE: Command = Command {
    flags: &[
        switch("all", "Remove all images that no container uses, not only those without a name").short('a'),
        many("filter", "NAME=VALUE", "dangling, label, label!, until"),
        FORCE,
    ],
    ..command(&["image", "prune"], "Remove images that nobody needs", commands::prune::images)
};

pub(super) const LOG: Command = Command {
    operands: "NAME[:TAG]",
    arity: (1, 1),
    flags: &[NO_TRUNC],
    ..command(&["image", "log"], "Show where a name pointed, and when it moved", commands::references::log)
};

pub(super) const ROLLBACK: Command = Command {
    operands: "NAME[:TAG] [MOVES]",
    arity: (1, 2),
    ..command(&["image", "rollback"], "Point a name to what it pointed to before", commands::references::rollback)
};

pub(super) const SQUASH: Command = Command {
    operands: "IMAGE",
    arity: (1, 1),
    flags: &[COMPRESSION_FORMAT, COMPRESSION_LEVEL, one("tag", "NAME[:TAG]", "Name of the new image").short('t')],
    ..command(&["image", "squash"], "Make an image of one layer of one with several", commands::squash::run)
};

pub(super) const DIFF: Command = Command {
    operands: "IMAGE IMAGE",
    arity: (2, 2),
    notes: "A path that the second image alone has is shown with A, one that it lacks with D, one that differs with C.",
    ..command(&["image", "diff"], "Show what differs between two images", commands::check::diff)
};

pub(super) const VERIFY: Command = Command {
    operands: "IMAGE [IMAGE...]",
    arity: (1, ANY),
    ..command(&["image", "verify"], "Hash all that images consist of again", commands::check::verify)
};

pub(super) const FSCK: Command = Command {
    flags: &[switch("dry-run", "Change nothing")],
    notes: "The exit code is 0 where nothing was damaged or all of it was repaired.",
    ..command(
        &["image", "fsck"],
        "Check the whole store, repair it or move what is damaged out of the way",
        commands::check::fsck,
    )
};

pub(super) const SYSTEM_DF: Command = Command {
    flags: &[
        one("format", "FORMAT", "table, table TEMPLATE, json or a Go template"),
        switch("verbose", "Show every image and container").short('v'),
    ],
    ..command(&["system", "df"], "Show what is on the disk", commands::disk::usage)
};

pub(super) const SYSTEM_PRUNE: Command = Command {
    flags: &[
        switch("all", "Remove all images that no container uses, not only those without a name").short('a'),
        many("filter", "NAME=VALUE", "label, label!, until"),
        FORCE,
        switch("volumes", "Remove anonymous volumes too").later("it comes with volumes"),
    ],
    ..command(&["system", "prune"], "Remove what nobody needs", commands::disk::prune)
};

pub(super) const CHORES: Command = Command {
    hidden: true,
    ..command(&["system", "chores"], "Do the store's background work", commands::disk::chores)
};
