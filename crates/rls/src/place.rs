//! Which columns of a row are which of the table's: the stream knows both by name only.
//!
//! A row may be older than the rules that judge it, and names can be given to other columns. Columns
//! themselves never change their order, and new ones come last. So names that stand in another order,
//! or further back than there were columns in front of them, mean others than they did: what a row has
//! under such a name is not known to be the table's.

/// A column of the table as it is now.
pub(crate) struct Named<'n> {
    pub(crate) name: &'n str,
    /// Computed by Postgres, and so not in the stream.
    pub(crate) generated: bool,
}

/// For each column of the table its place in a row with these names.
pub(crate) fn places<'n>(
    table: impl Iterator<Item = Named<'n>>,
    row: &[&str],
) -> Vec<Option<usize>> {
    let (mut places, mut in_front) = (Vec::new(), Vec::new());
    let mut count = 0;
    for column in table {
        places.push(row.iter().position(|name| *name == column.name));
        in_front.push(count);
        count += usize::from(!column.generated);
    }
    // Else the row may lack columns because the publication leaves them out.
    let is_older = (0..row.len()).any(|place| !places.contains(&Some(place)));
    let known = places.iter().enumerate().map(|(at, place)| {
        let (earlier, later) = places.split_at(at);
        place.filter(|place| {
            let in_order = earlier.iter().flatten().all(|other| other < place)
                && later.iter().flatten().all(|other| other >= place);
            let moved_back = is_older && in_front.get(at).is_some_and(|count| place < count);
            in_order && !moved_back
        })
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns are letters; `=` in front of one: it is generated. `expected`: those known, as they
    /// stand in the table; `.`: not known.
    #[test]
    fn names_that_may_mean_another_column_are_not_known() {
        let check = |row: &str, table: &str, expected: &str| {
            let names: Vec<&str> = row.split("").filter(|name| !name.is_empty()).collect();
            let (mut columns, mut generated) = (Vec::new(), false);
            for name in table.split("").filter(|name| !name.is_empty()) {
                match name {
                    "=" => generated = true,
                    name => columns.push(Named {
                        name,
                        generated: std::mem::take(&mut generated),
                    }),
                }
            }
            let known: String = places(columns.into_iter(), &names)
                .into_iter()
                .map(|place| place.map_or(".", |place| names[place]))
                .collect();
            assert_eq!(known, expected, "{row} → {table}");
        };
        for (row, table, expected) in [
            ("iab", "iab", "iab"),
            ("iab", "iabc", "iab."),
            ("iab", "ib", "ib"),
            ("iab", "iac", "ia."),
            ("iab", "icb", "i.b"),
            ("iabc", "ibcd", "ibc."), // one is gone, one has come
            // The publication leaves some out, or Postgres computes them.
            ("ib", "iab", "i.b"),
            ("ib", "i=ab", "i.b"),
            ("iabc", "i=xac", "i.ac"),
            // Two have changed places, or one was made anew.
            ("iab", "iba", "i.."),
            ("iabc", "iacb", "ia.."),
            ("iabc", "icba", "i..."),
            // One has the name that the one in front of it had.
            ("iab", "ixa", "i.."),
            ("iabc", "ixac", "i..c"),
            ("", "ia", ".."),
        ] {
            check(row, table, expected);
        }
    }
}
