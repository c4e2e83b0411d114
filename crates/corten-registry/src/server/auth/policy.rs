//! Rights: users, repositories, actions.

use super::super::config::{Action, Right};

/// The user of a rule that means everybody without a password.
const ANONYMOUS: &str = "anonymous";

/// Every rule. Without any, whoever is known may do everything.
#[derive(Debug)]
pub(super) struct Policy {
    rights: Vec<Right>,
}

impl Policy {
    pub(super) fn new(rights: &[Right]) -> Self {
        Self { rights: rights.to_vec() }
    }

    /// Whether a rule gives `user` (none: anonymous) this.
    pub(super) fn allows(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        if self.rights.is_empty() {
            return user.is_some();
        }
        self.rights.iter().any(|right| {
            right.actions.contains(&action)
                && right.repositories.iter().any(|pattern| matches(pattern, repository))
                && right.users.iter().any(|pattern| is_user(pattern, user))
        })
    }

    /// Whether some rule is about those without a password.
    pub(super) fn names_anybody_anonymous(&self) -> bool {
        self.rights.iter().any(|right| right.users.iter().any(|user| user == ANONYMOUS))
    }
}

/// What stands for everybody without a password gives those with one the same; a user who is called so gains nothing.
fn is_user(pattern: &str, user: Option<&str>) -> bool {
    if pattern == ANONYMOUS {
        return true;
    }
    user.is_some_and(|user| matches(pattern, user))
}

/// Whether `text` fits a pattern: `*` is any run of characters without a slash, `**` any run.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    // Backtracking to the last star of each kind alone keeps hostile patterns and names linear times linear.
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut star): (usize, Option<(usize, usize)>) = (0, None);
    let (mut place, mut wide): (usize, Option<(usize, usize)>) = (0, None);
    loop {
        if pattern[at..].starts_with(b"**") {
            at += 2;
            (wide, star) = (Some((at, place)), None);
        } else if pattern[at..].starts_with(b"*") {
            at += 1;
            star = Some((at, place));
        } else if place < text.len() && pattern.get(at) == Some(&text[place]) {
            (at, place) = (at + 1, place + 1);
        } else if place == text.len() && at == pattern.len() {
            return true;
        } else if let Some((after, from)) = star.filter(|(_, from)| text.get(*from).is_some_and(|byte| *byte != b'/')) {
            star = Some((after, from + 1));
            (at, place) = (after, from + 1);
        } else if let Some((after, from)) = wide.filter(|(_, from)| *from < text.len()) {
            wide = Some((after, from + 1));
            (at, place, star) = (after, from + 1, None);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_a_part_and_double_stars_do_not() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("**", "", true),
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("team/**", "team/a/b", true),
            ("team/**", "team", false),
            ("**/app", "a/b/app", true),
            ("**/app", "a/b/apps", false),
            ("*/app-*", "x/app-1", true),
            ("*/app-*", "x/y/app-1", false),
            ("**/x*z", "a/xy/xyz", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYb/Zc", false),
            ("ci-*", "ci-7", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
        // Ends in time.
        assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
        assert!(!matches(&"**a*".repeat(40), &format!("{}b", "a/".repeat(100))));
    }

    #[test]
    fn rules_add_up() {
        let right = |users: &[&str], repositories: &[&str], actions: &[Action]| Right {
            users: users.iter().map(|text| (*text).to_owned()).collect(),
            repositories: repositories.iter().map(|text| (*text).to_owned()).collect(),
            actions: actions.to_vec(),
        };
        let policy = Policy::new(&[
            right(&["anonymous"], &["public/**"], &[Action::Pull]),
            right(&["*"], &["**"], &[Action::Pull]),
            right(&["ci"], &["team/*"], &[Action::Push]),
        ]);
        for (user, repository, action, allowed) in [
            (None, "public/a", Action::Pull, true),
            (None, "public/a", Action::Push, false),
            (None, "team/a", Action::Pull, false),
            (Some("eve"), "team/a", Action::Pull, true),
            (Some("eve"), "team/a", Action::Push, false),
            (Some("ci"), "team/a", Action::Push, true),
            (Some("ci"), "team/a", Action::Delete, false),
            (Some("ci"), "team/a/b", Action::Push, false),
            (Some("anonymous"), "public/a", Action::Pull, true),
        ] {
            assert_eq!(policy.allows(user, repository, action), allowed, "{user:?} {repository} {action:?}");
        }
        let everybody_known = Policy::new(&[]);
        assert!(
            everybody_known.allows(Some("a"), "x", Action::Delete) && !everybody_known.allows(None, "x", Action::Pull)
        );
    }
}
