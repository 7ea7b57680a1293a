//! What is judged in one transaction: one viewer, one table, some images.

use std::collections::HashMap;
use std::sync::Arc;

use walcast_change::ColumnSet;

use crate::policy::Policies;
use crate::rules::{Image, Rules, Standing};
use crate::{Tier, Version, Viewer};

/// How images are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// The policies run over them.
    Image,
    /// The table is asked for them; these columns (positions in the table) are not in the images.
    Key(Arc<[usize]>),
}

#[derive(Clone, Debug)]
pub(crate) struct Unit<'a> {
    pub(crate) viewer: &'a Viewer,
    pub(crate) rules: Arc<Rules>,
    pub(crate) mode: Mode,
    pub(crate) asks: Vec<Ask>,
}

/// One verdict to be reached.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) question: usize,
    pub(crate) nth: usize,
    pub(crate) version: Version,
    pub(crate) image: Arc<Image>,
    /// What is visible if the row is.
    pub(crate) visible: Arc<ColumnSet>,
}

impl Ask {
    /// To be judged by what the table has now, if it can be: only what is compared with it may be
    /// visible then.
    pub(crate) fn by_key(&mut self, policies: &Policies) -> Option<Mode> {
        if self.version != Version::New || !policies.keys_without(&self.image.lacking) {
            return None;
        }
        self.visible = self.image.found.clone()?;
        Some(Mode::Key(self.image.lacking.clone()))
    }
}

/// Images of one statement. Its parameter is sent in one message.
const IMAGES_MAX: usize = 500;
const BYTES_MAX: usize = 4 << 20;

/// Gathers asks into units.
#[derive(Default)]
pub(crate) struct Units<'a> {
    by_key: HashMap<(u32, u64, Mode), usize>,
    bytes: HashMap<usize, usize>,
    pub(crate) units: Vec<Unit<'a>>,
}

impl<'a> Units<'a> {
    pub(crate) fn add(
        &mut self,
        number: u32,
        viewer: &'a Viewer,
        rules: &Arc<Rules>,
        mode: Mode,
        ask: Ask,
    ) {
        let key = (number, rules.id, mode);
        let size = ask.image.text.len();
        if let Some(&at) = self.by_key.get(&key)
            && let Some(unit) = self.units.get_mut(at)
        {
            let bytes = self.bytes.entry(at).or_default();
            if unit.asks.len() < IMAGES_MAX && *bytes + size <= BYTES_MAX {
                *bytes += size;
                unit.asks.push(ask);
                return;
            }
        }
        let at = self.units.len();
        self.units.push(Unit {
            viewer,
            rules: rules.clone(),
            mode: key.2.clone(),
            asks: vec![ask],
        });
        self.bytes.insert(at, size);
        self.by_key.insert(key, at);
    }

    /// Those of one role and table beside each other.
    pub(crate) fn sorted(mut self) -> Vec<Unit<'a>> {
        self.units.sort_by_key(|unit| unit.rules.id);
        self.units
    }
}

impl<'a> Unit<'a> {
    pub(crate) fn tier(&self) -> Tier {
        match self.mode {
            Mode::Image => Tier::Image,
            Mode::Key(_) => Tier::Key,
        }
    }

    /// Its statement was planned with an empty `search_path`.
    pub(crate) fn plans_without_path(&self) -> bool {
        match (&self.mode, &self.rules.standing) {
            (Mode::Image, Standing::Policies(policies)) => policies.shadowed,
            _ => false,
        }
    }

    /// How long its statement's plan may be kept, as `plan_cache_mode` puts it.
    pub(crate) fn plan_mode(&self) -> &'static str {
        match &self.rules.standing {
            Standing::Policies(policies) if policies.folds => "force_custom_plan",
            _ => "auto",
        }
    }

    /// Two halves, to find what fails.
    pub(crate) fn halves(mut self) -> (Unit<'a>, Unit<'a>) {
        let second = self.asks.split_off(self.asks.len() / 2);
        let other = Unit {
            asks: second,
            ..self.clone()
        };
        (self, other)
    }

    /// The same with the table asked instead, as far as it can be; the rest stays unanswered.
    pub(crate) fn by_key(self) -> (Vec<Unit<'a>>, Vec<Ask>) {
        let (mut units, mut rest) = (Units::default(), Vec::new());
        let Standing::Policies(policies) = &self.rules.standing else {
            return (Vec::new(), self.asks);
        };
        for mut ask in self.asks {
            match ask.by_key(policies) {
                Some(mode) => units.add(0, self.viewer, &self.rules, mode, ask),
                None => rest.push(ask),
            }
        }
        (units.units, rest)
    }
}
