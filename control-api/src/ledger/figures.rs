//! Figures by class, of theirs and of ours, and how they compare. Pure.

use std::fmt;

/// What providers count. Not each of them counts everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    Requests,
    /// All input, of those who do not tell what a cache served.
    InputSide,
    /// Input that no cache had to do with.
    Input,
    CacheRead,
    /// Both kinds of cache writes, of those who do not tell them apart.
    CacheWrite,
    CacheWrite5m,
    CacheWrite1h,
    Output,
}

impl Class {
    /// Every class, in the order in which they are printed.
    pub const ALL: [Self; 8] = [
        Self::Requests,
        Self::InputSide,
        Self::Input,
        Self::CacheRead,
        Self::CacheWrite,
        Self::CacheWrite5m,
        Self::CacheWrite1h,
        Self::Output,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::InputSide => "input_side",
            Self::Input => "input",
            Self::CacheRead => "cache_read",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite5m => "cache_write_5m",
            Self::CacheWrite1h => "cache_write_1h",
            Self::Output => "output",
        }
    }
}

/// A figure for each class, or none where nothing is said about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures([Option<i64>; Class::ALL.len()]);

impl Figures {
    /// One figure.
    pub fn one(class: Class, figure: i64) -> Self {
        let mut figures = Self::default();
        figures.set(class, Some(figure));
        figures
    }

    /// Ours, which say something about every class: requests, input, cache reads, cache writes for 5 minutes and an hour, output.
    pub fn ours([requests, input, cache_read, cache_write_5m, cache_write_1h, output]: [i64; 6]) -> Self {
        let cache_write = cache_write_5m + cache_write_1h;
        let input_side = input + cache_read + cache_write;
        Self(
            [
                requests,
                input_side,
                input,
                cache_read,
                cache_write,
                cache_write_5m,
                cache_write_1h,
                output,
            ]
            .map(Some),
        )
    }

    pub fn get(&self, class: Class) -> Option<i64> {
        self.0[class as usize]
    }

    pub fn set(&mut self, class: Class, figure: Option<i64>) {
        self.0[class as usize] = figure;
    }

    /// Adds class by class; what nobody says anything about stays unsaid.
    pub fn add(&mut self, other: &Self) {
        for class in Class::ALL {
            let sum = match (self.get(class), other.get(class)) {
                (None, None) => None,
                (one, other) => Some(one.unwrap_or_default().saturating_add(other.unwrap_or_default())),
            };
            self.set(class, sum);
        }
    }

    /// Whether nothing was used.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|figure| figure.unwrap_or_default() == 0)
    }

    /// Where these of theirs and ours differ, of the classes that they say something about: class, theirs, ours.
    fn deltas(&self, ours: &Self) -> Vec<(Class, i64, i64)> {
        let delta = |class: Class| {
            let (theirs, ours) = (self.get(class)?, ours.get(class).unwrap_or_default());
            (theirs != ours).then_some((class, theirs, ours))
        };
        Class::ALL.into_iter().filter_map(delta).collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |class: Class| self.get(class).map(|figure| format!("{} {figure}", class.as_str()));
        let said: Vec<_> = Class::ALL.into_iter().filter_map(said).collect();
        match &said[..] {
            [] => f.write_str("nothing"),
            said => f.write_str(&said.join(", ")),
        }
    }
}

/// What became of something that is in the export, in the ledger, or in both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finding {
    /// What it is: a request, or a day and model.
    pub what: String,
    /// The lines of the export.
    pub lines: Vec<u64>,
    pub theirs: Option<Figures>,
    pub ours: Option<Figures>,
}

/// How the two sides compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Match,
    Differs,
    MissingHere,
    NotInExport,
}

impl Finding {
    pub fn verdict(&self) -> Verdict {
        match (&self.theirs, &self.ours) {
            (Some(theirs), Some(ours)) if theirs.deltas(ours).is_empty() => Verdict::Match,
            (Some(_), Some(_)) => Verdict::Differs,
            (Some(theirs), None) if theirs.is_zero() => Verdict::Match,
            (Some(_), None) => Verdict::MissingHere,
            (None, _) => Verdict::NotInExport,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.lines.iter().map(u64::to_string).collect();
        let place = match &lines[..] {
            [] => String::new(),
            [line] => format!("line {line}: "),
            lines => format!("lines {}: ", lines.join(", ")),
        };
        let (theirs, ours) = (self.theirs.unwrap_or_default(), self.ours.unwrap_or_default());
        let what = &self.what;
        match self.verdict() {
            Verdict::Match => write!(f, "match: {place}{what}: {theirs}"),
            Verdict::MissingHere => write!(f, "missing here: {place}{what}: {theirs}"),
            Verdict::NotInExport => write!(f, "not in the export: {what}: {ours}"),
            Verdict::Differs => {
                let delta = |(class, theirs, ours): (Class, i64, i64)| {
                    format!(
                        "{} theirs {theirs}, ours {ours} ({:+})",
                        class.as_str(),
                        ours.saturating_sub(theirs)
                    )
                };
                let deltas: Vec<_> = theirs.deltas(&ours).into_iter().map(delta).collect();
                write!(f, "differs: {place}{what}: {}", deltas.join("; "))
            }
        }
    }
}
