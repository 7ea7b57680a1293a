//! Random values of the main types, as texts that their input functions take.
//! (Ten times faster than property-test strategies, and nothing here needs shrinking.)

use crate::postgres_text::{array, record};

/// SplitMix64.
pub(crate) struct Random(u64);

/// What texts are made of: everything that some quoting cares about, then the world's letters.
const PIECES: &[&str] = &[
    "\"",
    "\\",
    ",",
    ";",
    "{",
    "}",
    "(",
    ")",
    "'",
    " ",
    "NULL",
    "\n",
    "\t",
    "\r",
    "\u{1}",
    "\u{1f}",
    "\u{7f}",
    ":",
    "[",
    "]",
    "a",
    "B",
    "7",
    "ü",
    "ß",
    "日",
    "本",
    "🎈",
    "\u{2028}",
    "\u{feff}",
    "e\u{301}",
    "long enough to fill a word or two",
];

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Now and then NULL.
    pub(crate) fn maybe(&mut self, kind: &str) -> Option<String> {
        (self.below(8) > 0).then(|| self.value(kind))
    }

    fn value(&mut self, kind: &str) -> String {
        match kind {
            "bool" => ["t", "f"][self.below(2)].to_owned(),
            "int2" => (self.bits() as i16).to_string(),
            "int4" => (self.bits() as i32).to_string(),
            "int8" => self.int8().to_string(),
            "positive" => (self.int8() & i64::MAX).max(1).to_string(),
            "float4" => f32::from_bits(self.bits() as u32).to_string(),
            "float8" if self.below(2) == 0 => f64::from_bits(self.bits()).to_string(),
            "float8" => ((self.bits() as i32) as f64 / 1000.0).to_string(),
            "numeric" => self.numeric(),
            "text" => self.text(),
            "bytea" => format!(
                "\\x{}",
                self.text()
                    .bytes()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            ),
            "uuid" => format!("{:016x}{:016x}", self.bits(), self.bits()),
            "date" | "timestamp" | "timestamptz" if self.below(12) == 0 => {
                ["infinity", "-infinity"][self.below(2)].to_owned()
            }
            "date" => self.date(""),
            "timestamp" | "timestamptz" => {
                let clock = format!(" {}", self.clock(24));
                self.date(&clock)
            }
            "interval" => format!(
                "{} years {} days {}{}",
                self.below(900) as i64 - 450,
                self.below(900) as i64 - 450,
                ["", "-"][self.below(2)],
                self.clock(2000),
            ),
            "json" | "jsonb" => self.document(3),
            "inet" if self.below(2) == 0 => {
                let bytes = self.bits().to_be_bytes();
                format!(
                    "{}.{}.{}.{}/{}",
                    bytes[0],
                    bytes[1],
                    bytes[2],
                    bytes[3],
                    self.below(33)
                )
            }
            "inet" => format!("{:x}::{:x}", self.below(65536), self.below(65536)),
            "int8range" => match self.below(4) {
                0 => "empty".to_owned(),
                1 => "(,)".to_owned(),
                _ => format!("[{},{})", self.int8() | i64::MIN, self.int8() & i64::MAX),
            },
            "mood" => ["good", "not \"so\" good", "a,b", "NULL"][self.below(4)].to_owned(),
            "pair" => self.fields(&["int8", "text", "text[]"]),
            "nested" => self.fields(&["pair", "pair[]", "timestamptz", "jsonb"]),
            other => {
                let element = other
                    .strip_suffix("[]")
                    .expect("the other types stand above");
                let elements: Vec<_> = (0..self.below(4)).map(|_| self.maybe(element)).collect();
                array(elements.iter().map(Option::as_deref), ',')
            }
        }
    }

    fn fields(&mut self, kinds: &[&str]) -> String {
        let fields: Vec<_> = kinds.iter().map(|kind| self.maybe(kind)).collect();
        record(fields.iter().map(Option::as_deref))
    }

    /// Often short, sometimes of all 64 bits.
    fn int8(&mut self) -> i64 {
        (self.bits() as i64) >> self.below(64)
    }

    fn numeric(&mut self) -> String {
        match self.below(12) {
            0 => "NaN".to_owned(),
            1 => ["Infinity", "-Infinity"][self.below(2)].to_owned(),
            2 => format!("{}e{}", self.int8(), self.below(200) as i64 - 100),
            3..6 => self.int8().to_string(),
            _ => format!(
                "{}{}.{:0>4}",
                self.int8(),
                self.bits(),
                self.int8().unsigned_abs()
            ),
        }
    }

    fn text(&mut self) -> String {
        let pieces = self.below(10);
        (0..pieces)
            .map(|_| PIECES[self.below(PIECES.len())])
            .collect()
    }

    fn date(&mut self, clock: &str) -> String {
        let (month, day) = (self.below(12) + 1, self.below(28) + 1);
        match self.below(8) {
            0 => format!("{:04}-{month:02}-{day:02}{clock} BC", self.below(4000) + 1),
            1 => format!("{:04}-{month:02}-{day:02}{clock}", self.below(250_000) + 1),
            _ => format!("{}-{month:02}-{day:02}{clock}", self.below(200) + 1850),
        }
    }

    fn clock(&mut self, hours: usize) -> String {
        let fraction = [String::new(), format!(".{:06}", self.below(1_000_000))];
        let [hour, minute, second] = [hours, 60, 60].map(|count| self.below(count));
        format!(
            "{hour:02}:{minute:02}:{second:02}{}",
            fraction[self.below(2)]
        )
    }

    fn document(&mut self, depth: usize) -> String {
        let blank = ["", " ", "\n  "][self.below(3)];
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => "null".to_owned(),
            1 => ["true", "false"][self.below(2)].to_owned(),
            2 => format!("{}.{:03}", self.int8(), self.below(1000)),
            3 => format!("{}E{}", self.int8(), self.below(40) as i64 - 20),
            4 => self.json_string(),
            5 => {
                let inner: Vec<_> = (0..self.below(4))
                    .map(|_| self.document(depth - 1))
                    .collect();
                format!("[{blank}{}]", inner.join(&format!(",{blank}")))
            }
            _ => {
                let entry = |random: &mut Random| {
                    format!(
                        "{}:{blank}{}",
                        random.json_string(),
                        random.document(depth - 1)
                    )
                };
                let entries: Vec<_> = (0..self.below(4)).map(|_| entry(self)).collect();
                format!("{{{blank}{}}}", entries.join(","))
            }
        }
    }

    fn json_string(&mut self) -> String {
        serde_json::to_string(&self.text()).expect("a string can be written")
    }

    fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
