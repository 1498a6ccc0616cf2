"""The functions that statements may call: everything else is refused, for everyone.

Reviewed for DuckDB 2.0. A function is on a list here only if its result depends on its arguments alone, or
on what a client may know anyway (the time, its own name and schema). Left out, and why:

- files, network, extensions: ``read_*``, ``glob``, ``sniff_csv``, ``parquet_*``, ``*_scan``, ``getenv``;
- SQL or names of tables given as text: ``query``, ``query_table``, ``json_serialize_plan``,
  ``json_execute_serialized_sql``, and the table macros ``histogram`` and ``histogram_values`` built on them;
- the engine's own state, other sessions' tables, internal views with file paths: ``duckdb_*``, ``pragma_*``,
  ``pg_get_viewdef`` and its like, ``getvariable``, ``current_setting``, ``current_query``, ``stats``;
- what changes state that outlives the statement: ``nextval``, ``setval``, ``setseed``, ``write_log``;
- bytes taken for the internal state of an aggregate (``finalize``, ``combine``, ``to_aggregate_state``);
- waiting (``sleep_ms``, ``pg_sleep``), and names beginning with ``__internal``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache

import duckdb

from lakehouse.engine.gate_text import Token
from lakehouse.errors import NotSupported, SqlBindError, StatementForbidden

_OPERATORS = """
    !__postfix + - * / // % ^ ** @ & | << >> ~ = != < <= > >= || && @> <@ ^@ -> ->> <-> <=> ~~ !~~ ~~*
    !~~* ~~~ add subtract multiply divide mod xor decimal_division
"""
_CONDITIONS = """
    assert_true constant_or_null error greatest if least nullif switch
"""
_NUMBERS = """
    abs acos acosh asin asinh atan atan2 atanh bin binom bit_count bit_length bit_position cbrt ceil
    ceiling cos cosh cot degrees equi_width_bins even exp factorial fdiv floor fmod gamma gcd
    greatest_common_divisor is_histogram_other_bin isfinite isinf isnan lcm least_common_multiple lgamma
    ln log log10 log2 nextafter pi pow power radians random round round_even roundbankers sign signbit sin
    sinh sqrt tan tanh to_base trunc
"""
_TEXT = """
    array_to_string array_to_string_comma_default ascii bar char_length character_length chr concat
    concat_ws contains damerau_levenshtein editdist3 ends_with format format_bytes
    formatreadabledecimalsize formatreadablesize hamming icu_sort_key ilike_escape instr jaccard
    jaro_similarity jaro_winkler_similarity lcase left left_grapheme len length length_grapheme
    levenshtein like_escape lower lpad ltrim mismatches nfc_normalize not_ilike_escape not_like_escape ord
    overlay parse_dirname parse_dirpath parse_filename parse_formatted_bytes parse_path path_join
    pg_size_pretty position prefix printf regexp_escape regexp_extract regexp_extract_all
    regexp_full_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table repeat
    replace reverse right right_grapheme rpad rtrim split split_part starts_with str_split str_split_regex
    string_split string_split_regex string_to_array strip_accents strlen strpos substr substring
    substring_grapheme suffix translate trim ucase unicode upper
"""
_BYTES = """
    base64 bitstring create_sort_key decode encode from_base64 from_binary from_hex get_bit hash hex md5
    md5_number md5_number_lower md5_number_upper octet_length set_bit sha1 sha256 to_base64 to_binary
    to_hex unbin unhex url_decode url_encode
"""
_DATES_AND_TIMES = """
    age ago century current_date current_localtime current_localtimestamp date_add date_diff date_part
    date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear
    days_in_month decade epoch epoch_ms epoch_ns epoch_us era get_current_time get_current_timestamp hour
    isodow isoyear julian last_day make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns
    make_timestamptz microsecond millennium millisecond minute month monthname nanosecond
    normalized_interval now quarter second strftime strptime time_bucket timezone timezone_hour
    timezone_minute to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds
    to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years today transaction_timestamp
    try_strptime week weekday weekofyear year yearweek
"""
_LISTS = """
    aggregate apply array_aggr array_aggregate array_append array_apply array_cat array_concat
    array_contains array_cosine_distance array_cosine_similarity array_cross_product array_distance
    array_distinct array_dot_product array_extract array_filter array_grade_up array_has array_has_all
    array_has_any array_indexof array_inner_product array_intersect array_length
    array_negative_dot_product array_negative_inner_product array_pop_back array_pop_front array_position
    array_prepend array_push_back array_push_front array_reduce array_resize array_reverse
    array_reverse_sort array_select array_slice array_sort array_transform array_unique array_value
    array_where array_zip element_at filter flatten generate_series generate_subscripts grade_up invoke
    list_aggr list_aggregate list_any_value list_append list_apply list_approx_count_distinct list_avg
    list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or list_cat list_concat list_contains
    list_cosine_distance list_cosine_similarity list_count list_distance list_distinct list_dot_product
    list_element list_entropy list_extract list_filter list_first list_grade_up list_has list_has_all
    list_has_any list_histogram list_indexof list_inner_product list_intersect list_kurtosis
    list_kurtosis_pop list_last list_mad list_max list_median list_min list_mode list_negative_dot_product
    list_negative_inner_product list_pack list_position list_prepend list_product list_reduce list_resize
    list_reverse list_reverse_sort list_select list_sem list_skewness list_slice list_sort list_stddev_pop
    list_stddev_samp list_string_agg list_sum list_transform list_unique list_value list_var_pop
    list_var_samp list_where list_zip range reduce unnest
"""
_STRUCTS_AND_MAPS = """
    cardinality enum_code enum_first enum_last enum_range enum_range_boundary map map_concat map_contains
    map_contains_entry map_contains_value map_entries map_extract map_extract_value map_from_entries
    map_keys map_values remap_struct row struct_concat struct_contains struct_extract struct_extract_at
    struct_has struct_indexof struct_insert struct_keys struct_pack struct_position struct_update
    struct_values union_extract union_tag union_value
"""
_JSON_AND_VARIANT = """
    array_to_json from_json from_json_strict json json_array json_array_length json_contains
    json_deep_merge json_exists json_extract json_extract_path json_extract_path_text json_extract_string
    json_group_array json_group_object json_group_structure json_insert json_keys json_merge_patch
    json_merge_patch_diff json_normalize json_object json_pretty json_quote json_remove json_replace
    json_set json_strip_nulls json_structure json_transform json_transform_strict json_type json_valid
    json_value row_to_json to_json variant_array_length variant_contains variant_exists variant_extract
    variant_extract_string variant_group_array variant_group_object variant_keys variant_normalize
    variant_type variant_typeof
"""
_GEOMETRY = """
    st_asbinary st_asgeojson st_astext st_aswkb st_aswkt st_crs st_geomfromgeojson st_geomfromwkb
    st_intersects_extent st_setcrs vertex_extract
"""
_IDENTIFIERS_AND_TYPES = """
    alias can_cast_implicitly cast_to_type gen_random_uuid get_type make_type pg_typeof replace_type
    typeof unpivot_list uuid uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7
"""
# What a client may know about itself and the server.
_SESSION = """
    current_catalog current_connection_id current_database current_query_id current_role current_schema
    current_schemas current_transaction_id current_user session_user txid_current user version
"""
_AGGREGATES = """
    any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null
    arg_max_nulls_last arg_min arg_min_null arg_min_nulls_last argmax argmin array_agg avg bit_and bit_or
    bit_xor bitstring_agg bool_and bool_or corr count count_if count_star countif covar_pop covar_samp
    decimal_average entropy favg first fsum geomean geometric_mean group_concat histogram histogram_exact
    kahan_sum kurtosis kurtosis_pop last list listagg lttb mad max max_by mean median min min_by mode
    product quantile quantile_cont quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem skewness stddev stddev_pop stddev_samp
    string_agg sum sum_no_overflow sumkahan var_pop var_samp variance wavg weighted_avg
"""
_WINDOWS = """
    cume_dist dense_rank fill first_value lag last_value lead nth_value ntile percent_rank rank rank_dense
    row_number
"""
# Words of the grammar that its tree gives as functions though the catalog of functions does not know them.
_GRAMMAR = "unnest ->"
_TABLES = """
    duckdb_keywords generate_series icu_calendar_names json_each json_tree pg_timezone_names
    pragma_version range repeat repeat_row summary test_all_types unnest
"""

_VALUE_GROUPS = (
    _OPERATORS,
    _CONDITIONS,
    _NUMBERS,
    _TEXT,
    _BYTES,
    _DATES_AND_TIMES,
    _LISTS,
    _STRUCTS_AND_MAPS,
    _JSON_AND_VARIANT,
    _GEOMETRY,
    _IDENTIFIERS_AND_TYPES,
    _SESSION,
    _AGGREGATES,
    _WINDOWS,
)

# What may stand before a bracket in the definition of a column or an action of MERGE and is no function.
_BEFORE_BRACKET = frozenset(
    """
    all and any array as between bit bpchar by case cast char character check coalesce dec decimal default
    distinct else enum exists extract filter float geometry ifnull ilike in insert interval is key like not
    numeric on or over set some string struct text then time timestamp try try_cast union unique using values
    varbit varchar varying when
    """.split()
)
_QUERY_WORDS = frozenset("SELECT FROM WITH VALUES TABLE DESCRIBE DESC SUMMARIZE SHOW PIVOT UNPIVOT".split())

FUNCTIONS = frozenset(name for group in _VALUE_GROUPS for name in group.split())
"""Functions, operators and macros that give a value, by lower-case name."""

OWN_FUNCTIONS = frozenset({"embed"})
"""Functions of the server's own that give a value."""

GRAMMAR_FUNCTIONS = frozenset(_GRAMMAR.split())
"""Those of ``FUNCTIONS`` that are words of the grammar, and not in ``duckdb_functions()``."""

TABLE_FUNCTIONS = frozenset(_TABLES.split())
"""Functions that give a table, for FROM, by lower-case name."""


def check_function(name: str) -> None:
    """Refuse a function that may not be called.

    Raises:
        StatementForbidden: The function is not on the list of allowed ones.
        SqlBindError: There is none of that name.
    """
    if name not in FUNCTIONS and name.lower() not in FUNCTIONS and name.lower() not in OWN_FUNCTIONS:
        raise _refusal("function", name.lower(), FUNCTIONS)


def check_table_function(name: str) -> None:
    """Refuse a table function that may not be called.

    Raises:
        StatementForbidden: The function is not on the list of allowed ones.
        SqlBindError: There is none of that name.
    """
    if name.lower() not in TABLE_FUNCTIONS:
        raise _refusal("table function", name.lower(), TABLE_FUNCTIONS)


def _refusal(what: str, name: str, allowed: frozenset[str]) -> StatementForbidden | SqlBindError:
    if name in _known():
        return StatementForbidden(f"the {what} {name} is not allowed")
    near = difflib.get_close_matches(name, allowed, 1)
    return SqlBindError(f"the {what} {name} does not exist", f"did you mean {near[0]}?" if near else "")


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    """Every function that DuckDB has, and one that only its command line has."""
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()
    return frozenset({"getenv", *(str(name) for (name,) in rows)})


def check_calls(tokens: Sequence[Token]) -> None:
    """Refuse functions and queries in a piece of a statement that there is no tree of.

    Raises:
        StatementForbidden: A function is called that is not on the list of allowed ones.
        NotSupported: There is a query in it.
    """
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if after is None:
            continue
        if token.text == "(" and after.word in _QUERY_WORDS:
            raise NotSupported("a query is not supported in this place")
        # What looks like a call there need not be one, so nothing is said about which functions there are.
        name = token.name.lower() if token.kind == "name" and after.text == "(" else ""
        if name and name not in _BEFORE_BRACKET and name not in FUNCTIONS:
            raise StatementForbidden(f"the function {name} is not allowed")
