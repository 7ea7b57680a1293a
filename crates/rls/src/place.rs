//! Which columns of a row are which of the table's: the stream knows both by name only.
//!
//! A row may be older than the rules that judge it, and names can be given to other columns. Columns
//! themselves never change their order, new ones come last, and dropped ones keep their numbers. So
//! names that stand in another order, further back than there are columns in front of them now, or
//! further to the front than there ever were, mean others than they did: what a row has under such a
//! name is not known to be the table's.

/// A column of the table as it is now.
pub(crate) struct Named<'n> {
    pub(crate) name: &'n str,
    /// Counts from 1, with the dropped ones.
    pub(crate) number: i16,
    /// Computed by Postgres, and so mostly not in the stream.
    pub(crate) generated: bool,
}

/// For each column of the table its place in a row with these names. `last`: the highest number that
/// a column of the table has had.
pub(crate) fn places<'n>(
    table: impl Iterator<Item = Named<'n>>,
    last: i16,
    row: &[&str],
) -> Vec<Option<usize>> {
    let mut columns = Vec::new();
    let mut live = 0;
    for column in table {
        let place = row.iter().position(|name| *name == column.name);
        columns.push((place, column.number, live));
        live += usize::from(!column.generated);
    }
    let places: Vec<_> = columns.iter().map(|(place, ..)| *place).collect();
    // Else the row may lack columns because the publication leaves them out.
    let is_older = (0..row.len()).any(|place| !places.contains(&Some(place)));
    let known = columns
        .iter()
        .enumerate()
        .map(|(at, (place, number, live))| {
            let (earlier, later) = places.split_at(at);
            place.filter(|place| {
                let in_order = earlier.iter().flatten().all(|other| other < place)
                    && later.iter().flatten().all(|other| other >= place);
                let (in_front, behind) = (count(number - 1), count(last - number));
                let fits = *place <= in_front && row.len() - 1 - place <= behind;
                let moved_back = is_older && place < live;
                in_order && fits && !moved_back
            })
        });
    known.collect()
}

fn count(columns: i16) -> usize {
    usize::try_from(columns).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns are letters; `=` in front of one: it is generated; `-`: one was dropped here.
    /// `expected`: those known, as they stand in the table; `.`: not known.
    #[test]
    fn names_that_may_mean_another_column_are_not_known() {
        let check = |row: &str, table: &str, expected: &str| {
            let names: Vec<&str> = row.split("").filter(|name| !name.is_empty()).collect();
            let (mut columns, mut generated, mut last) = (Vec::new(), false, 0);
            for name in table.split("").filter(|name| !name.is_empty()) {
                if name == "=" {
                    generated = true;
                    continue;
                }
                last += 1;
                if name != "-" {
                    columns.push(Named {
                        name,
                        number: last,
                        generated: std::mem::take(&mut generated),
                    });
                }
            }
            let known: String = places(columns.into_iter(), last, &names)
                .into_iter()
                .map(|place| place.map_or(".", |place| names[place]))
                .collect();
            assert_eq!(known, expected, "{row} → {table}");
        };
        for (row, table, expected) in [
            ("iab", "iab", "iab"),
            ("iab", "iabc", "iab."),
            ("iab", "i-b", "ib"),
            ("iab", "i-bc", "ib."),
            ("ib", "i-b", "ib"),
            ("iab", "iac", "ia."),
            ("iab", "icb", "i.b"),
            ("iabc", "i-bcd", "ibc."), // one is gone, one has come
            // The publication leaves some out, or Postgres computes them.
            ("ib", "iab", "i.b"),
            ("ib", "i=ab", "i.b"),
            ("iabc", "i=x-abc", "i.abc"),
            // Generated ones may be published.
            ("ia", "i=a", "ia"),
            ("iab", "i=ab", "iab"),
            // Two have changed places, or one was made anew.
            ("iab", "iba", "i.."),
            ("iabc", "iacb", "ia.."),
            ("iabc", "icba", "i..."),
            // One has the name that another one had.
            ("iab", "ixa", "i.."),
            ("iabc", "ixac", "i..c"),
            ("iab", "ibx", "i.."),
            ("iabc", "ibxc", "i..c"),
            // And that other one is gone, from behind it or from in front.
            ("iab", "ib-", "i."),
            ("iabc", "ib-c", "i.c"),
            ("iba", "i-b", "i."),
            ("ibac", "i-bc", "i.c"),
            ("", "ia", ".."),
        ] {
            check(row, table, expected);
        }
    }
}
