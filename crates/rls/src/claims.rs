//! Which parts of a policy depend on the viewer's claims alone.
//!
//! Works on Postgres's own text of the policies, parsed. Whatever is not known for certain refuses
//! the whole policy: then it is judged viewer by viewer, as a whole, by Postgres.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, ObjectName, ObjectNamePart, Query, SetExpr, Statement, TableFactor, Value, Visit,
    VisitMut, Visitor, VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

/// What a name in a policy is, as far as the catalogue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Its arguments decide.
    Immutable,
    /// The same, and gives rows.
    Rows,
    /// The same for all viewers of a role at one moment: clocks, settings of the session, aggregates.
    Ambient,
    /// The role and the claims decide.
    Claims,
}

/// The names that a policy may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    /// Postgres's own.
    pub(crate) builtins: HashMap<String, Class>,
    /// The application's, without arguments, by schema and name.
    pub(crate) functions: HashMap<(String, String), Class>,
    /// Plain tables whose rows are the same for everybody.
    pub(crate) tables: HashSet<(String, String)>,
}

/// A policy whose viewers matter only through the values of `slots`.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    pub(crate) slots: Vec<Slot>,
    /// The policy; [`slot_of`] tells which identifiers stand for slots.
    pub(crate) tree: Expr,
}

/// A greatest sub-expression that role and claims decide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) sql: String,
    /// Not a constant.
    pub(crate) varies: bool,
}

/// Names that nobody else may use.
pub(crate) const PREFIX: &str = "walcast_";
const SLOT: &str = "walcast_slot_";

/// Slots of one policy. More, and grouping by them is hardly worth it.
const SLOTS_MAX: usize = 32;

/// The settings that carry claims.
const CLAIMS: [&str; 4] = [
    "request.jwt.claims",
    "request.jwt.claim.sub",
    "request.jwt.claim.role",
    "request.jwt.claim.email",
];

/// `Err`: why the policy can't be taken apart.
pub(crate) fn outline(text: &str, vocabulary: &Vocabulary) -> Result<Outline, String> {
    let mut tree = parse(text)?;
    let traits = traits(&tree, vocabulary);
    if let Some(reason) = traits.unknown {
        return Err(reason);
    }
    let mut extraction = Extraction {
        vocabulary,
        slots: Vec::new(),
    };
    let _ = VisitMut::visit(&mut tree, &mut extraction);
    if extraction.slots.len() > SLOTS_MAX {
        return Err("it has too many parts that read claims".into());
    }
    Ok(Outline {
        slots: extraction.slots,
        tree,
    })
}

/// The number of the slot that an expression stands for.
pub(crate) fn slot_of(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Identifier(name) => name.value.strip_prefix(SLOT)?.parse().ok(),
        _ => None,
    }
}

/// The one expression that a function's body selects, if that is all it does.
pub(crate) fn body(text: &str) -> Option<Expr> {
    let statements = Parser::parse_sql(&PostgreSqlDialect {}, text).ok()?;
    let [Statement::Query(query)] = statements.as_slice() else {
        return None;
    };
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let single = select.projection.len() == 1 && select.from.is_empty();
    single.then(|| Expr::Subquery(query.clone()))
}

/// The same of a body of the SQL standard, as Postgres prints it.
pub(crate) fn bound_body(text: &str) -> Option<Expr> {
    let text = text.trim();
    if let Some(expression) = text.strip_prefix("RETURN ") {
        return parse(expression).ok();
    }
    let inner = text.strip_prefix("BEGIN ATOMIC")?.strip_suffix("END")?;
    let statement = inner.trim().strip_suffix(';')?;
    let body = body(statement)?;
    let exact = tokens(&format!("({statement})")) == tokens(&body.to_string());
    exact.then_some(body)
}

/// Whether role and claims alone decide the value of an expression.
pub(crate) fn is_of_claims(expression: &Expr, vocabulary: &Vocabulary) -> bool {
    let traits = traits(expression, vocabulary);
    traits.unknown.is_none() && !traits.row && !traits.ambient && !traits.rows
}

/// The application's functions without arguments that an expression calls.
pub(crate) fn calls(expression: &Expr) -> Vec<(String, String)> {
    struct Calls(Vec<(String, String)>);
    impl Visitor for Calls {
        type Break = ();
        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expression
                && let [schema, name] = parts(&function.name).as_slice()
            {
                self.0.push((schema.clone(), name.clone()));
            }
            ControlFlow::Continue(())
        }
    }
    let mut calls = Calls(Vec::new());
    let _ = Visit::visit(expression, &mut calls);
    calls.0
}

/// The whole text, and a tree that prints the same tokens: nothing is lost or read differently.
fn parse(text: &str) -> Result<Expr, String> {
    let failed = || "its text is not understood".to_owned();
    let mut parser = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .map_err(|_| failed())?;
    let tree = parser.parse_expr().map_err(|_| failed())?;
    if parser.peek_token().token != Token::EOF {
        return Err(failed());
    }
    let (before, after) = (tokens(text), tokens(&tree.to_string()));
    match before.is_some() && before == after {
        true => Ok(tree),
        false => Err("its text is not understood exactly".into()),
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize()
        .ok()?;
    let folded = tokens.into_iter().filter_map(|token| match token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_none() => {
            Some(Token::make_word(&word.value.to_lowercase(), None))
        }
        token => Some(token),
    });
    Some(folded.collect())
}

/// What an expression's value depends on, beside the role.
#[derive(Default)]
struct Traits {
    /// Columns of this or another table.
    row: bool,
    claims: bool,
    ambient: bool,
    /// Gives rows where one value is wanted.
    rows: bool,
    unknown: Option<String>,
}

fn traits(expression: &Expr, vocabulary: &Vocabulary) -> Traits {
    let mut found = Finding {
        vocabulary,
        traits: Traits::default(),
        depth: 0,
    };
    let _ = Visit::visit(expression, &mut found);
    found.traits
}

struct Finding<'v> {
    vocabulary: &'v Vocabulary,
    traits: Traits,
    /// Of sub-selects.
    depth: usize,
}

impl Visitor for Finding<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        if query.with.is_some() {
            self.unknown("WITH");
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<()> {
        match table {
            TableFactor::Table {
                name, args: None, ..
            } => {
                self.traits.row = true;
                let known = match parts(name).as_slice() {
                    [schema, table] => self
                        .vocabulary
                        .tables
                        .contains(&(schema.clone(), table.clone())),
                    _ => false,
                };
                if !known {
                    self.unknown(&format!(
                        "{name}, which may show each viewer something else"
                    ));
                }
            }
            TableFactor::Table {
                name,
                args: Some(_),
                ..
            } => self.call(name),
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {}
            _ => self.unknown("an unusual FROM"),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_ident(&mut self, name: &Ident) -> ControlFlow<()> {
        if name.value.starts_with(PREFIX) {
            self.unknown("a name that begins with walcast_");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => self.traits.row = true,
            Expr::Function(function) => self.function(function),
            Expr::BinaryOp { op, .. } => self.operator(op),
            Expr::AnyOp { compare_op, .. } | Expr::AllOp { compare_op, .. } => {
                self.operator(compare_op);
            }
            Expr::Cast { data_type, .. } => {
                // Other types may mean the clock ('today'), the time zone, or a type of the application.
                if !is_plain(data_type) {
                    self.traits.ambient = true;
                }
            }
            Expr::Value(value) => {
                if matches!(value.value, Value::Placeholder(_)) {
                    self.unknown("a parameter");
                }
            }
            // A slot must not swallow what decides a comparison outside of it.
            Expr::Collate { .. }
            | Expr::TypedString(_)
            | Expr::Interval(_)
            | Expr::AtTimeZone { .. }
            | Expr::Extract { .. } => self.traits.ambient = true,
            Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::UnaryOp { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Nested(_)
            | Expr::Case { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::Tuple(_)
            | Expr::Array(_)
            | Expr::CompoundFieldAccess { .. } => {}
            _ => self.unknown("an unusual expression"),
        }
        ControlFlow::Continue(())
    }
}

impl Finding<'_> {
    fn unknown(&mut self, what: &str) {
        self.traits
            .unknown
            .get_or_insert_with(|| format!("it uses {what}"));
    }

    fn operator(&mut self, operator: &BinaryOperator) {
        if matches!(
            operator,
            BinaryOperator::PGCustomBinaryOperator(_) | BinaryOperator::Custom(_)
        ) {
            self.unknown("an operator of the application");
        }
    }

    fn function(&mut self, function: &Function) {
        if function.over.is_some() || function.filter.is_some() || !function.within_group.is_empty()
        {
            self.traits.ambient = true;
        }
        if has_wildcard(&function.args) {
            self.traits.row = true;
        }
        match parts(&function.name).as_slice() {
            [name] if name == "current_setting" => match reads_claims(function) {
                true => self.traits.claims = true,
                false => self.unknown("a setting that carries no claims"),
            },
            [name] if name == "array" => {} // ARRAY(SELECT …)
            [_, _] if !has_no_arguments(function) => {
                self.unknown(&format!("the function {}", function.name));
            }
            _ => self.call(&function.name),
        }
    }

    fn call(&mut self, name: &ObjectName) {
        let class = match parts(name).as_slice() {
            [name] => special(name).or_else(|| self.vocabulary.builtins.get(name).copied()),
            [schema, name] => {
                let key = (schema.clone(), name.clone());
                self.vocabulary.functions.get(&key).copied()
            }
            _ => None,
        };
        match class {
            Some(Class::Immutable) => {}
            // Where a sub-select takes them in, rows are as good as values.
            Some(Class::Rows) => self.traits.rows |= self.depth == 0,
            Some(Class::Ambient) => self.traits.ambient = true,
            Some(Class::Claims) => self.traits.claims = true,
            None => self.unknown(&format!("the function {name}")),
        }
    }
}

/// What the grammar itself knows.
fn special(name: &str) -> Option<Class> {
    match name {
        "coalesce" | "nullif" | "greatest" | "least" => Some(Class::Immutable),
        "current_user" | "current_role" | "user" | "session_user" => Some(Class::Claims),
        "current_date" | "current_time" | "current_timestamp" | "localtime" | "localtimestamp" => {
            Some(Class::Ambient)
        }
        _ => None,
    }
}

/// Texts of these types mean the same at any time, in any session.
fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::Text
        | DataType::CharacterVarying(_)
        | DataType::Varchar(_)
        | DataType::Uuid
        | DataType::SmallInt(None)
        | DataType::Int2(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Int4(None)
        | DataType::BigInt(None)
        | DataType::Int8(None)
        | DataType::Numeric(_)
        | DataType::Bool
        | DataType::Boolean
        | DataType::JSON
        | DataType::JSONB => true,
        DataType::Array(element) => {
            use sqlparser::ast::ArrayElemTypeDef::{AngleBracket, SquareBracket};
            matches!(element, AngleBracket(inner) | SquareBracket(inner, _) if is_plain(inner))
        }
        _ => false,
    }
}

/// A name's parts as Postgres means them; none for an odd one.
pub(crate) fn parts(name: &ObjectName) -> Vec<String> {
    let parts = name.0.iter().map(|part| match part {
        ObjectNamePart::Identifier(name) => Some(folded(name)),
        ObjectNamePart::Function(_) => None,
    });
    parts.collect::<Option<_>>().unwrap_or_default()
}

pub(crate) fn folded(name: &Ident) -> String {
    match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    }
}

fn has_no_arguments(function: &Function) -> bool {
    matches!(&function.args, FunctionArguments::List(list) if list.args.is_empty())
}

fn has_wildcard(arguments: &FunctionArguments) -> bool {
    let FunctionArguments::List(list) = arguments else {
        return false;
    };
    list.args.iter().any(|argument| {
        !matches!(
            argument,
            FunctionArg::Unnamed(FunctionArgExpr::Expr(_))
                | FunctionArg::Named {
                    arg: FunctionArgExpr::Expr(_),
                    ..
                }
        )
    })
}

/// `current_setting('request.jwt.claims'::text, true)`.
fn reads_claims(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else {
        return false;
    };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(first))) = list.args.first() else {
        return false;
    };
    let literal = match first {
        Expr::Cast {
            expr,
            data_type: DataType::Text,
            ..
        } => expr,
        other => other,
    };
    match literal {
        Expr::Value(value) => {
            matches!(&value.value, Value::SingleQuotedString(name) if CLAIMS.contains(&name.as_str()))
        }
        _ => false,
    }
}

/// Puts slots in the places of what role and claims decide.
struct Extraction<'v> {
    vocabulary: &'v Vocabulary,
    slots: Vec<Slot>,
}

impl VisitorMut for Extraction<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if slot_of(expression).is_some() || !is_of_claims(expression, self.vocabulary) {
            return ControlFlow::Continue(());
        }
        let slot = Slot {
            sql: expression.to_string(),
            varies: traits(expression, self.vocabulary).claims,
        };
        let at = match self.slots.iter().position(|known| *known == slot) {
            Some(at) => at,
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        *expression = Expr::Identifier(Ident::new(format!("{SLOT}{at}")));
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        let function = |name: &str| (("auth".to_owned(), name.to_owned()), Class::Claims);
        Vocabulary {
            builtins: HashMap::from([
                ("lower".into(), Class::Immutable),
                ("jsonb_array_elements_text".into(), Class::Rows),
                ("now".into(), Class::Ambient),
            ]),
            functions: [function("uid"), function("jwt")].into(),
            tables: [("public".into(), "members".into())].into(),
        }
    }

    fn slots(text: &str) -> Result<Vec<String>, String> {
        let outline = outline(text, &vocabulary())?;
        Ok(outline.slots.into_iter().map(|slot| slot.sql).collect())
    }

    #[test]
    fn what_the_claims_decide() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(slots(text).as_deref().expect(text), expected, "{text}");
        };
        check("(owner = auth.uid())", &["auth.uid()"]);
        check(
            "(owner = ( SELECT auth.uid() AS uid))",
            &["(SELECT auth.uid() AS uid)"],
        );
        check(
            "((tenant)::text = (auth.jwt() ->> 'tenant'::text))",
            &["(auth.jwt() ->> 'tenant'::TEXT)"],
        );
        check("true", &["true"]);
        check("(a AND (b = 5))", &["5"]);
        check("(at > now())", &[]);
        check("(owner = \"current_user\")", &[]);
        check("(owner = CURRENT_USER)", &["CURRENT_USER"]);
        check(
            "(EXISTS ( SELECT 1 FROM public.members m WHERE ((m.who = auth.uid()) AND (m.team = t.team))))",
            &["1", "auth.uid()"],
        );
        check(
            "(team = ANY (ARRAY( SELECT jsonb_array_elements_text((auth.jwt() -> 'teams'::text)) AS e)))",
            &["ARRAY(SELECT jsonb_array_elements_text((auth.jwt() -> 'teams'::TEXT)) AS e)"],
        );
        check(
            "(x = current_setting('request.jwt.claim.sub'::text, true))",
            &["current_setting('request.jwt.claim.sub'::TEXT, true)"],
        );
    }

    #[test]
    fn bodies_of_the_sql_standard() {
        let reads = |text: &str| bound_body(text).map(|body| is_of_claims(&body, &vocabulary()));
        for (text, expected) in [
            (
                "RETURN ((NULLIF(current_setting('request.jwt.claims'::text, true), ''::text))::jsonb ->> 'sub'::text)",
                Some(true),
            ),
            (
                "BEGIN ATOMIC\n SELECT lower((auth.uid())::text) AS lower;\nEND",
                Some(true),
            ),
            ("RETURN ( SELECT m.team FROM public.members m)", Some(false)),
            ("RETURN now()", Some(false)),
            ("RETURN auth.other()", Some(false)),
            ("RETURN 1; SELECT 2", None),
            ("BEGIN ATOMIC\n SELECT 1;\n SELECT 2;\nEND", None),
            ("BEGIN ATOMIC\n DELETE FROM public.members;\nEND", None),
            (
                "BEGIN ATOMIC\n SELECT m.team FROM public.members m;\nEND",
                None,
            ),
            ("SELECT 1", None),
        ] {
            assert_eq!(reads(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            "(owner = auth.other())",
            "(owner = auth.uid(1))",
            "(f(owner))",
            "(x = current_setting('app.x'::text, true))",
            "(x OPERATOR(public.=) auth.uid())",
            "(EXISTS ( SELECT 1 FROM public.secrets))",
            "(EXISTS ( SELECT 1 FROM members))",
            "(walcast_slot_0 = 1)",
            "(a = b) trailing",
            "(EXISTS ( WITH x AS (SELECT 1) SELECT 1 FROM public.members))",
        ] {
            assert!(slots(text).is_err(), "{text}: {:?}", slots(text));
        }
    }
}
