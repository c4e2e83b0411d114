//! One flag of a command.

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or `=BOOL`.
    Nothing,
    /// One value; the last one given counts.
    One(&'static str),
    /// One value a time, as often as wanted.
    Many(&'static str),
}

/// Whether a flag works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It does.
    Here,
    /// Docker has it and Corten has not: refused by name, except for values that change nothing.
    Refused {
        /// What to do instead, or why not.
        reason: &'static str,
        /// Values that ask for what happens anyway.
        harmless: &'static [&'static str],
        /// It is to come.
        later: bool,
    },
}

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) long: &'static str,
    /// Further long names, left out of help.
    pub(crate) aliases: &'static [&'static str],
    /// Its one letter.
    pub(crate) short: Option<char>,
    /// What follows it.
    pub(crate) takes: Takes,
    /// One line.
    pub(crate) help: &'static str,
    /// Whether it works here.
    pub(crate) status: Status,
}

/// A flag that is on or off.
pub(crate) const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag { long, aliases: &[], short: None, takes: Takes::Nothing, help, status: Status::Here }
}

/// A flag with one value.
pub(crate) const fn one(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { long, aliases: &[], short: None, takes: Takes::One(value), help, status: Status::Here }
}

/// A flag that may be given several times.
pub(crate) const fn many(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { long, aliases: &[], short: None, takes: Takes::Many(value), help, status: Status::Here }
}

impl Flag {
    /// With a letter.
    pub(crate) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// With further long names.
    pub(crate) const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Not here yet.
    pub(crate) const fn later(self, reason: &'static str) -> Self {
        self.refused(&[], reason, true)
    }

    /// Not here yet, but these values ask for nothing else than what happens.
    pub(crate) const fn later_unless(self, harmless: &'static [&'static str], reason: &'static str) -> Self {
        self.refused(harmless, reason, true)
    }

    /// Never to be here.
    pub(crate) const fn never(self, reason: &'static str) -> Self {
        self.refused(&[], reason, false)
    }

    /// Never to be here, but these values ask for nothing else than what happens.
    pub(crate) const fn never_unless(self, harmless: &'static [&'static str], reason: &'static str) -> Self {
        self.refused(harmless, reason, false)
    }

    const fn refused(mut self, harmless: &'static [&'static str], reason: &'static str, later: bool) -> Self {
        self.status = Status::Refused { reason, harmless, later };
        self
    }

    /// As docker's messages name it: `-m, --memory`.
    pub(crate) fn display(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    /// Whether it works here.
    pub(crate) fn is_here(&self) -> bool {
        self.status == Status::Here
    }
}
