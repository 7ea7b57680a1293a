//! Viewers: roles, and claims as tokens have them and as they should not.

use walcast_rls::Viewer;

use crate::kind::IDS;
use crate::random::Random;
use crate::rig::viewer;

/// Claims by name, each with what it may be (JSON texts).
const CLAIMS: &[(&str, &[&str])] = &[
    (
        "sub",
        &[
            ID_A,
            ID_B,
            ID_C,
            ID_D,
            "\"ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEF0D\"",
            "\"not a uuid\"",
            "\"\"",
            "null",
            "7",
            "[]",
        ],
    ),
    (
        "owner",
        &[
            ID_A,
            ID_B,
            ID_D,
            "\"{abcdefab-cdef-abcd-efab-cdefabcdef0d}\"",
            "null",
        ],
    ),
    (
        "role",
        &[
            "\"authenticated\"",
            "\"anon\"",
            "\"editor\"",
            "null",
            "\"a\"",
        ],
    ),
    (
        "tenant",
        &[
            "\"acme\"",
            "\"ACME\"",
            "\"a\"",
            "\"A\"",
            "\"a \"",
            "\"\"",
            "\"umbrella\"",
            "\"\\u00e9\"",
            "\"e\\u0301\"",
            "null",
            "1",
            "true",
            "[\"acme\"]",
            "{\"a\": 1}",
            "\"it's\"",
            "\"a\\\\b\"",
            "\"\\\"\"",
        ],
    ),
    (
        "email",
        &[
            "\"a\"",
            "\"b\"",
            "\"%\"",
            "\"acme\"",
            "\"strasse\"",
            "\"NULL\"",
        ],
    ),
    (
        "org",
        &[
            "1",
            "2",
            "7",
            "\"1\"",
            "\"01\"",
            "\" 1\"",
            "1.0",
            "1e0",
            "\"1.0\"",
            "\"x\"",
            "null",
            "-1",
            "true",
            "99999999999",
        ],
    ),
    ("level", &["0", "1", "3", "\"2\"", "null", "2.5"]),
    (
        "score",
        &[
            "1",
            "1.00",
            "\"NaN\"",
            "\"-0\"",
            "-0.0",
            "2.5",
            "\"Infinity\"",
            "1e400",
            "null",
        ],
    ),
    (
        "flag",
        &[
            "true",
            "false",
            "\"t\"",
            "\"off\"",
            "\"true\"",
            "\"maybe\"",
            "null",
            "1",
            "0",
        ],
    ),
    (
        "teams",
        &[
            "[1, 2]",
            "[3]",
            "[]",
            "[null]",
            "[1, null]",
            "[\"1\", \"7\"]",
            "[\"a\", \"acme\"]",
            "null",
            "1",
            "\"1\"",
            "{\"1\": 2}",
            "[1.0]",
            "[[1]]",
        ],
    ),
    (
        "csv",
        &["\"1,2\"", "\"\"", "\"3\"", "\"x\"", "\"a,acme\"", "null"],
    ),
    (
        "array",
        &[
            "\"{}\"",
            "\"{1,2}\"",
            "\"{a,b}\"",
            "\"{NULL}\"",
            "\"{\"",
            "null",
            "[1, 2]",
        ],
    ),
    (
        "app",
        &[
            "{\"roles\": [\"admin\", \"x\"], \"level\": 3, \"tenant\": \"acme\"}",
            "{\"roles\": [], \"level\": \"1\"}",
            "{\"roles\": \"admin\", \"tenant\": null}",
            "{\"a\": 1}",
            "null",
            "[]",
            "{}",
        ],
    ),
    (
        "when",
        &[
            "\"2024-01-01\"",
            "\"2024-01-01 12:00:00.5\"",
            "\"infinity\"",
            "\"tomorrow\"",
            "1704067200",
            "null",
        ],
    ),
    (
        "since",
        &["\"2024-01-01T02:00:00+02:00\"", "\"2024-02-29\""],
    ),
    ("clock", &["\"12:00\"", "\"12:00+00\"", "\"24:00\""]),
    ("span", &["\"1 day\"", "\"24:00\"", "\"1 mon\""]),
    ("mood", &["\"sad\"", "\"happy\"", "\"Angry\"", "\"SAD\""]),
    ("address", &["\"10.0.0.1\"", "\"10.0.0.1/32\""]),
    ("bits", &["\"101\"", "5"]),
    ("pair", &["\"(1,a)\"", "\"(,)\""]),
    ("range", &["\"[1,2]\"", "\"empty\""]),
];

const ID_A: &str = "\"00000000-0000-0000-0000-00000000000a\"";
const ID_B: &str = "\"00000000-0000-0000-0000-00000000000b\"";
const ID_C: &str = "\"00000000-0000-0000-0000-00000000000c\"";
const ID_D: &str = "\"abcdefab-cdef-abcd-efab-cdefabcdef0d\"";

pub(crate) const ROLES: [&str; 6] = [
    "authenticated",
    "anon",
    "editor",
    "senior",
    "auditor",
    "service_role",
];

/// Different viewers. Some differ in a claim only that few policies read.
pub(crate) fn crowd(random: &mut Random, roles: &[&str], size: usize) -> Vec<Viewer> {
    let mut viewers: Vec<Viewer> = Vec::new();
    while viewers.len() < size {
        let role = match random.once_in(3) {
            true => "authenticated",
            false => random.pick(roles),
        };
        let known = match viewers.len() {
            0 => None,
            count => viewers.get(random.below(count)),
        };
        // somebody else's claims under another role, now and then
        let claims = match known {
            Some(known) if random.once_in(6) => known.claims.to_string(),
            _ => claims(random),
        };
        let new = viewer(role, &claims);
        if !viewers.contains(&new) {
            viewers.push(new);
        }
    }
    viewers
}

fn claims(random: &mut Random) -> String {
    match random.below(24) {
        0 => return "{}".to_owned(),
        1 => return String::new(),
        2 => return format!("{{\"sub\": \"{}\"}}", random.pick(&IDS)),
        _ => {}
    }
    let plain = random.once_in(2);
    let mut parts = Vec::new();
    for (name, values) in CLAIMS {
        let present = if plain {
            !random.once_in(5)
        } else {
            random.once_in(2)
        };
        if present {
            // the first ones are what an application's own tokens have
            let value = if plain {
                values[random.below(values.len().min(4))]
            } else {
                random.pick(values)
            };
            parts.push(format!("\"{name}\": {value}"));
        }
    }
    if random.once_in(2) {
        parts.push(format!("\"iat\": {}", random.below(1000)));
    }
    random.shuffle(&mut parts);
    format!("{{{}}}", parts.join(", "))
}
