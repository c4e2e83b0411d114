//! Random names for containers: an adjective and the surname of somebody who changed what we know.

use corten_types::Result;

const ADJECTIVES: [&str; 64] = [
    "amber", "ample", "artful", "balmy", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheerful",
    "clear", "clever", "cosmic", "crisp", "daring", "deft", "eager", "earnest", "fair", "fearless", "fleet", "fond",
    "frank", "gentle", "glad", "golden", "graceful", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively",
    "lucid", "lucky", "mellow", "merry", "mighty", "modest", "neat", "nimble", "noble", "patient", "plucky", "proud",
    "quiet", "rapid", "ready", "robust", "serene", "sharp", "silent", "sincere", "steady", "sturdy", "sunny", "swift",
    "tidy", "vivid", "warm", "witty",
];

const SURNAMES: [&str; 72] = [
    "abel",
    "agnesi",
    "alhazen",
    "ampere",
    "anning",
    "arendt",
    "avogadro",
    "babbage",
    "banach",
    "bell",
    "bernoulli",
    "bohr",
    "boole",
    "borlaug",
    "bose",
    "brahe",
    "cannon",
    "cantor",
    "carson",
    "cavendish",
    "cayley",
    "chatelet",
    "church",
    "curie",
    "darwin",
    "descartes",
    "dijkstra",
    "dirac",
    "einstein",
    "elion",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "hamilton",
    "herschel",
    "hilbert",
    "hodgkin",
    "hopper",
    "hypatia",
    "jemison",
    "kepler",
    "knuth",
    "kovalevskaya",
    "lamarr",
    "leavitt",
    "lovelace",
    "maxwell",
    "mcclintock",
    "meitner",
    "mendel",
    "mirzakhani",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "planck",
    "ramanujan",
    "shannon",
    "turing",
    "tesla",
    "wing",
    "yalow",
];

/// A random name; from the second attempt on with a number behind it, so that a full house still finds one.
pub(crate) fn random(attempt: u32) -> Result<String> {
    let [adjective, surname, digit, _] = crate::random::bytes::<4>()?.map(usize::from);
    let name = format!("{}_{}", ADJECTIVES[adjective % ADJECTIVES.len()], SURNAMES[surname % SURNAMES.len()]);
    Ok(if attempt == 0 { name } else { format!("{name}{}", digit % 10 + usize::try_from(attempt).unwrap_or(0) * 10) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_names() {
        for attempt in 0..40 {
            let name = random(attempt % 4).unwrap();
            corten_types::ContainerName::parse(&name).unwrap();
            assert_eq!(name.ends_with(|c: char| c.is_ascii_digit()), attempt % 4 > 0, "{name}");
        }
    }

    #[test]
    fn words_are_sorted_enough_to_be_distinct() {
        let distinct: std::collections::BTreeSet<&str> = ADJECTIVES.iter().chain(&SURNAMES).copied().collect();
        assert_eq!(distinct.len(), ADJECTIVES.len() + SURNAMES.len());
    }
}
