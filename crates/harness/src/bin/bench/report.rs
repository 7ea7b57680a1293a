//! The figures, as a table and as JSON.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    lines: Vec<Line>,
}

/// One figure.
#[derive(Serialize)]
pub(crate) struct Line {
    bench: &'static str,
    case: String,
    figure: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
}

/// What a figure should be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtMost(bound) => value <= bound,
            Goal::AtLeast(bound) => value >= bound,
        }
    }
}

impl Report {
    pub(crate) fn new(machine: String) -> Report {
        let lines = Vec::new();
        Report { machine, lines }
    }

    pub(crate) fn add(
        &mut self,
        bench: &'static str,
        case: impl Into<String>,
        figure: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Option<Goal>,
    ) {
        let line = Line {
            bench,
            case: case.into(),
            figure: figure.into(),
            value,
            unit,
            goal,
        };
        eprintln!("  {}", line.text());
        self.lines.push(line);
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n\n", self.machine);
        for line in &self.lines {
            let _ = writeln!(text, "{}", line.text()); // writing to a string does not fail
        }
        text
    }
}

impl Line {
    fn text(&self) -> String {
        let goal = match self.goal {
            None => String::new(),
            Some(goal) => {
                let (sign, bound) = match goal {
                    Goal::AtMost(bound) => ("<=", bound),
                    Goal::AtLeast(bound) => (">=", bound),
                };
                let verdict = if goal.is_met(self.value) {
                    "met"
                } else {
                    "MISSED"
                };
                format!("goal {sign} {bound} {verdict}")
            }
        };
        let line = format!(
            "{:<8} {:<30} {:<34} {:>11} {:<9} {goal}",
            self.bench,
            self.case,
            self.figure,
            number(self.value),
            self.unit
        );
        line.trim_end().to_owned()
    }
}

/// Three digits or so that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub(crate) fn progress(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_its_goal_is_met() {
        let cases = [
            (Some(Goal::AtMost(1.0)), 0.5, "goal <= 1 met"),
            (Some(Goal::AtMost(1.0)), 1.5, "goal <= 1 MISSED"),
            (Some(Goal::AtLeast(0.9)), 0.89, "goal >= 0.9 MISSED"),
            (None, 1234.5, "1234 ms"), // round half to even
        ];
        for (goal, value, expected) in cases {
            let mut report = Report::new("here".into());
            report.add("a", "b", "c", value, "ms", goal);
            let text = report.table();
            assert!(text.trim_end().ends_with(expected), "{text}");
        }
    }
}
