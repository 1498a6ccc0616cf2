import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.TreeMap;

/** DatabaseMetaData: every method, and the answers on the sample tables. */
final class MetadataChecks {

  private static final List<String> TABLES =
      List.of("airlines", "airports", "flights", "planes", "weather");
  private static final String[] KEYS = {
    "PKTABLE_CAT", "PKTABLE_SCHEM", "PKTABLE_NAME", "PKCOLUMN_NAME", "FKTABLE_SCHEM",
        "FKTABLE_NAME",
    "FKCOLUMN_NAME", "KEY_SEQ", "FK_NAME", "PK_NAME", "UPDATE_RULE", "DELETE_RULE"
  };

  private MetadataChecks() {}

  static List<Check> all() {
    return List.of(
        Check.check("metadata.methods_without_arguments", MetadataChecks::withoutArguments),
        Check.check("metadata.methods_with_numbers", MetadataChecks::withNumbers),
        Check.check("metadata.listings_of_what_is_not_there", MetadataChecks::listings),
        Check.check("metadata.product", MetadataChecks::product),
        Check.check("metadata.dialect", MetadataChecks::dialect),
        Check.check("metadata.functions", MetadataChecks::functions),
        Check.check("metadata.support", MetadataChecks::support),
        Check.check("metadata.catalogs", MetadataChecks::catalogs),
        Check.check("metadata.schemas", MetadataChecks::schemas),
        Check.check("metadata.table_types", MetadataChecks::tableTypes),
        Check.check("metadata.tables", MetadataChecks::tables),
        Check.check("metadata.tables_by_type", MetadataChecks::tablesByType),
        Check.check("metadata.tables_by_pattern", MetadataChecks::tablesByPattern),
        Check.check("metadata.tables_of_odd_names", MetadataChecks::oddNames),
        Check.check("metadata.columns", MetadataChecks::columns),
        Check.check("metadata.columns_by_pattern", MetadataChecks::columnsByPattern),
        Check.check("metadata.columns_of_every_type", MetadataChecks::columnsOfEveryType),
        Check.check("metadata.column_remarks", MetadataChecks::remarks),
        Check.check("metadata.primary_keys", MetadataChecks::primaryKeys),
        Check.check("metadata.imported_keys", MetadataChecks::importedKeys),
        Check.check("metadata.exported_keys", MetadataChecks::exportedKeys),
        Check.check("metadata.cross_reference", MetadataChecks::crossReference),
        Check.check("metadata.keys_of_no_table", MetadataChecks::noKeys));
  }

  /** None may throw. */
  private static void withoutArguments(Connection connection) throws Exception {
    callAll(connection, new Class<?>[0], new Object[][] {{}});
  }

  private static void withNumbers(Connection connection) throws Exception {
    Object[][] kinds = {{1003}, {1004}, {1005}, {0}, {1}, {2}, {4}, {8}};
    callAll(connection, new Class<?>[] {int.class}, kinds);
    int[] types = {
      -7, -6, 5, 4, -5, 6, 7, 8, 2, 3, 1, 12, -1, 91, 92, 93, -2, -3, -4, 16, 2003, 2014
    };
    DatabaseMetaData metadata = connection.getMetaData();
    for (int from : types) {
      for (int to : types) {
        metadata.supportsConvert(from, to);
      }
      metadata.supportsResultSetConcurrency(
          ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY);
    }
    Verify.equal(true, metadata.supportsConvert(4, 12), "INTEGER to VARCHAR");
    Verify.equal(false, metadata.supportsConvert(91, 4), "DATE to INTEGER");
  }

  private static void callAll(Connection connection, Class<?>[] types, Object[][] arguments)
      throws Exception {
    DatabaseMetaData metadata = connection.getMetaData();
    List<String> failures = new ArrayList<>();
    int calls = 0;
    for (Method method : DatabaseMetaData.class.getMethods()) {
      if (Modifier.isStatic(method.getModifiers())
          || !Arrays.equals(method.getParameterTypes(), types)) {
        continue;
      }
      for (Object[] each : arguments) {
        // Levels of isolation and kinds of result are numbers of their own.
        boolean level = method.getName().equals("supportsTransactionIsolationLevel");
        if (each.length > 0 && level != ((Integer) each[0] < 1000)) {
          continue;
        }
        calls++;
        try {
          if (method.invoke(metadata, each) instanceof ResultSet result) {
            Verify.labels(result);
            while (result.next()) {
              result.getString(1);
            }
            result.close();
          }
        } catch (InvocationTargetException error) {
          if (!String.valueOf(error.getCause().getMessage())
              .startsWith("todo: implement")) { // in the driver
            failures.add(method.getName() + Arrays.toString(each) + ": " + error.getCause());
          }
        }
      }
    }
    Verify.that(
        failures.isEmpty(), failures.size() + " of " + calls + " calls failed: " + failures);
    Verify.that(calls > 5, "methods were found");
  }

  /** The driver answers these itself, with nothing. */
  private static void listings(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    List<ResultSet> results =
        List.of(
            metadata.getTypeInfo(),
            metadata.getIndexInfo("lake", "nyc", "flights", false, true),
            metadata.getBestRowIdentifier(
                "lake", "nyc", "flights", DatabaseMetaData.bestRowSession, true),
            metadata.getVersionColumns("lake", "nyc", "flights"),
            metadata.getProcedures("lake", null, "%"),
            metadata.getProcedureColumns("lake", null, "%", "%"),
            metadata.getFunctions("lake", null, "%"),
            metadata.getFunctionColumns("lake", null, "%", "%"),
            metadata.getUDTs("lake", null, "%", null),
            metadata.getSuperTypes("lake", null, "%"),
            metadata.getSuperTables("lake", null, "%"),
            metadata.getAttributes("lake", null, "%", "%"),
            metadata.getTablePrivileges("lake", "nyc", "%"),
            metadata.getColumnPrivileges("lake", "nyc", "flights", "%"),
            metadata.getPseudoColumns("lake", "nyc", "flights", "%"),
            metadata.getClientInfoProperties());
    for (ResultSet result : results) {
      Verify.that(!Verify.labels(result).isEmpty(), "columns");
      Verify.equal(false, result.next(), "rows of " + Verify.labels(result));
      result.close();
    }
  }

  private static void product(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal("Lakehouse Flight SQL", metadata.getDatabaseProductName(), "product");
    Verify.that(metadata.getDatabaseProductVersion().matches("\\d+\\.\\d+.*"), "version");
    Verify.equal(false, metadata.isReadOnly(), "read-only");
    Verify.that(metadata.getURL().startsWith("jdbc:arrow-flight-sql://"), metadata.getURL());
    Verify.equal(connection, metadata.getConnection(), "connection");
  }

  private static void dialect(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal("\"", metadata.getIdentifierQuoteString(), "quote");
    Verify.equal("\\", metadata.getSearchStringEscape(), "escape");
    Verify.equal("$", metadata.getExtraNameCharacters(), "further characters");
    Verify.equal(".", metadata.getCatalogSeparator(), "separator");
    Verify.equal(
        List.of("catalog", "schema", "procedure"),
        List.of(metadata.getCatalogTerm(), metadata.getSchemaTerm(), metadata.getProcedureTerm()),
        "terms");
    Verify.equal(true, metadata.isCatalogAtStart(), "catalog at start");
    Verify.that(
        List.of(metadata.getSQLKeywords().split(", ?"))
            .containsAll(List.of("qualify", "pivot", "asof")),
        metadata.getSQLKeywords());
  }

  private static void functions(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    contains(metadata.getNumericFunctions(), "abs", "round", "sqrt");
    contains(metadata.getStringFunctions(), "upper", "substring", "replace");
    contains(metadata.getSystemFunctions(), "current_user", "version");
    contains(metadata.getTimeDateFunctions(), "date_trunc", "now");
  }

  private static void contains(String list, String... names) {
    Verify.that(List.of(list.split(", ?")).containsAll(List.of(names)), list);
  }

  private static void support(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(true, metadata.supportsFullOuterJoins(), "full outer joins");
    Verify.equal(true, metadata.supportsGroupByBeyondSelect(), "group by beyond select");
    Verify.equal(true, metadata.supportsUnionAll(), "union all");
    Verify.equal(true, metadata.supportsCorrelatedSubqueries(), "correlated subqueries");
    Verify.equal(
        true, metadata.supportsSubqueriesInQuantifieds(), "subqueries in quantified expressions");
    Verify.equal(true, metadata.supportsLikeEscapeClause(), "LIKE … ESCAPE");
    Verify.equal(true, metadata.nullsAreSortedAtEnd(), "nulls at the end");
    Verify.equal(true, metadata.supportsBatchUpdates(), "batch updates");
    Verify.equal(false, metadata.supportsSavepoints(), "savepoints");
    Verify.equal(false, metadata.supportsStoredProcedures(), "stored procedures");
    Verify.equal(false, metadata.supportsSelectForUpdate(), "SELECT FOR UPDATE");
    Verify.equal(
        Connection.TRANSACTION_READ_COMMITTED,
        metadata.getDefaultTransactionIsolation(),
        "isolation");
    Verify.equal(true, metadata.supportsTransactionIsolationLevel(2), "read committed");
    Verify.equal(false, metadata.supportsTransactionIsolationLevel(8), "serializable");
  }

  private static void catalogs(Connection connection) throws SQLException {
    ResultSet result = connection.getMetaData().getCatalogs();
    Verify.equal(List.of("TABLE_CAT"), Verify.labels(result), "labels");
    Verify.equal(List.of("lake"), Verify.column(result), "catalogs");
  }

  private static void schemas(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    ResultSet result = metadata.getSchemas();
    Verify.equal("TABLE_SCHEM", Verify.labels(result).get(0), "label");
    List<String> found = Verify.column(result);
    Verify.that(found.containsAll(List.of("main", "nyc")), found.toString());
    Verify.equal(List.of("nyc"), Verify.column(metadata.getSchemas("lake", "n_c")), "pattern");
    Verify.equal(List.of("nyc"), Verify.column(metadata.getSchemas(null, "NYC")), "other case");
    Verify.equal(found, Verify.column(metadata.getSchemas("lake", null)), "all of lake");
    Verify.equal(List.of(), Verify.column(metadata.getSchemas("nowhere", null)), "other catalog");
    Verify.equal(
        List.of(), Verify.column(metadata.getSchemas("lake", "nowhere")), "no such schema");
  }

  private static void tableTypes(Connection connection) throws SQLException {
    ResultSet result = connection.getMetaData().getTableTypes();
    Verify.equal(List.of("TABLE_TYPE"), Verify.labels(result), "labels");
    List<String> types = Verify.column(result);
    Verify.that(types.containsAll(List.of("LOCAL TEMPORARY", "TABLE")), types.toString());
    Verify.equal(types.stream().sorted().toList(), types, "sorted");
  }

  private static void tables(Connection connection) throws SQLException {
    ResultSet result = connection.getMetaData().getTables("lake", "nyc", "%", null);
    Verify.equal(
        List.of("TABLE_CAT", "TABLE_SCHEM", "TABLE_NAME", "TABLE_TYPE", "REMARKS"),
        Verify.labels(result).subList(0, 5),
        "labels");
    Verify.equal(
        TABLES.stream().map(name -> "lake|nyc|" + name + "|TABLE").toList(),
        Verify.rows(result, "TABLE_CAT", "TABLE_SCHEM", "TABLE_NAME", "TABLE_TYPE"),
        "tables");
    Verify.equal(TABLES, names(connection, null, "nyc", null), "without catalog and pattern");
    Verify.equal(List.of(), names(connection, "nowhere", null, "%"), "other catalog");
    Verify.equal(List.of(), names(connection, "lake", "nowhere", "%"), "other schema");
    Verify.equal(List.of(), names(connection, "", "", "%"), "objects without catalog and schema");
  }

  private static void tablesByType(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE of_a_type (x INTEGER)");
    Verify.equal(TABLES, names(connection, "lake", "nyc", "%", "TABLE"), "TABLE");
    Verify.equal(TABLES, names(connection, "lake", "nyc", "%", "TABLE", "VIEW"), "TABLE and VIEW");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "%", "VIEW"), "VIEW");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "%", "SYSTEM TABLE"), "SYSTEM TABLE");
    Verify.equal(
        List.of("of_a_type"),
        names(connection, "lake", null, "%", "LOCAL TEMPORARY"),
        "LOCAL TEMPORARY");
    Verify.that(
        names(connection, null, null, "%").containsAll(List.of("of_a_type", "flights")),
        "all of them");
  }

  private static void tablesByPattern(Connection connection) throws SQLException {
    Verify.equal(List.of("airlines", "airports"), names(connection, "lake", "nyc", "air%"), "air%");
    Verify.equal(List.of("planes"), names(connection, "lake", "nyc", "_lanes"), "_lanes");
    Verify.equal(List.of("flights"), names(connection, "lake", "nyc", "FLIGHTS"), "FLIGHTS");
    Verify.equal(List.of("flights"), names(connection, "lake", "n%", "%light%"), "%light%");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "\\_lanes"), "\\_lanes");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "air\\%"), "air\\%");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "airline"), "airline");
    Verify.equal(List.of(), names(connection, "lake", "nyc", ""), "nothing");
    Verify.equal(List.of(), names(connection, "lake", "nyc", "fl.*"), "a regular expression");
  }

  private static void oddNames(Connection connection) throws SQLException {
    List<String> odd = List.of("Grüße", "a b", "a\"b", "a%b", "a'b", "a_b", "axb");
    for (String name : odd) {
      Verify.update(
          connection,
          "CREATE TEMP TABLE \"" + name.replace("\"", "\"\"") + "\" (\"the key\" INTEGER)");
    }
    Verify.equal(odd, names(connection, "lake", "temp", "%"), "names");
    Verify.equal(List.of("a_b"), names(connection, "lake", "temp", "a\\_b"), "a\\_b");
    Verify.equal(List.of("a%b"), names(connection, "lake", "temp", "a\\%b"), "a\\%b");
    Verify.equal(List.of("a'b"), names(connection, "lake", "temp", "a'b"), "a'b");
    Verify.equal(
        List.of("Grüße|the key"),
        Verify.rows(
            connection.getMetaData().getColumns("lake", "temp", "Grüße", "the key"),
            "TABLE_NAME",
            "COLUMN_NAME"),
        "columns of Grüße");
  }

  private static void columns(Connection connection) throws SQLException {
    ResultSet result = connection.getMetaData().getColumns("lake", "nyc", "weather", "%");
    List<String> found =
        Verify.rows(
            result,
            "TABLE_CAT",
            "TABLE_SCHEM",
            "TABLE_NAME",
            "COLUMN_NAME",
            "TYPE_NAME",
            "NULLABLE",
            "IS_NULLABLE",
            "ORDINAL_POSITION",
            "IS_AUTOINCREMENT");
    Verify.equal(15, found.size(), "number of columns");
    Verify.equal("lake|nyc|weather|origin|VARCHAR|0|NO|1|NO", found.get(0), "origin");
    Verify.equal("lake|nyc|weather|year|INTEGER|1|YES|2|NO", found.get(1), "year");
    Verify.equal("lake|nyc|weather|temp|DOUBLE|1|YES|6|NO", found.get(5), "temp");
    Verify.equal(
        "lake|nyc|weather|time_hour|TIMESTAMP WITH TIME ZONE|0|NO|15|NO",
        found.get(14),
        "time_hour");
  }

  private static void columnsByPattern(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(
        List.of("flights|dep_time", "flights|dep_delay"),
        Verify.rows(
            metadata.getColumns(null, "nyc", "flights", "dep_%"), "TABLE_NAME", "COLUMN_NAME"),
        "dep_%");
    Verify.equal(
        List.of("airlines|name", "airports|name"),
        Verify.rows(metadata.getColumns(null, "nyc", "%", "name"), "TABLE_NAME", "COLUMN_NAME"),
        "name");
    Verify.equal(
        2,
        Verify.rows(metadata.getColumns(null, "nyc", "airlines", null), "COLUMN_NAME").size(),
        "null");
    Verify.equal(
        53,
        Verify.rows(metadata.getColumns("lake", "nyc", "%", "%"), "COLUMN_NAME").size(),
        "all of nyc");
    Verify.equal(
        List.of(),
        Verify.rows(metadata.getColumns("lake", "nyc", "nowhere", "%"), "COLUMN_NAME"),
        "no table");
  }

  private static void columnsOfEveryType(Connection connection) throws SQLException {
    TreeMap<String, String> types = new TreeMap<>();
    for (String type :
        List.of(
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INTEGER",
            "BIGINT",
            "UTINYINT",
            "USMALLINT",
            "UINTEGER",
            "UBIGINT",
            "HUGEINT",
            "FLOAT",
            "DOUBLE",
            "DECIMAL(10,2)",
            "VARCHAR",
            "BLOB",
            "DATE",
            "TIME",
            "TIMESTAMP",
            "TIMESTAMPTZ",
            "TIMESTAMP_S",
            "TIMESTAMP_NS",
            "INTERVAL",
            "UUID",
            "JSON",
            "INTEGER[]",
            "INTEGER[3]",
            "STRUCT(a INTEGER, b VARCHAR)",
            "MAP(VARCHAR, INTEGER)",
            "ENUM('a', 'b')")) {
      types.put("c" + types.size(), type);
    }
    String columns =
        String.join(
            ", ", types.entrySet().stream().map(e -> e.getKey() + " " + e.getValue()).toList());
    Verify.update(connection, "CREATE TEMP TABLE every_type (" + columns + ")");
    try (ResultSet result =
        connection.getMetaData().getColumns("lake", "temp", "every_type", "%")) {
      int rows = 0;
      while (result.next()) {
        rows++;
        String declared = types.get(result.getString("COLUMN_NAME"));
        Verify.that(!result.getString("TYPE_NAME").isEmpty(), "type name of " + declared);
        result.getInt("DATA_TYPE");
        result.getInt("COLUMN_SIZE");
        result.getInt("DECIMAL_DIGITS");
        if (declared.startsWith("DECIMAL")) {
          Verify.equal("DECIMAL(10,2)", result.getString("TYPE_NAME"), "decimal");
          Verify.equal(10, result.getInt("COLUMN_SIZE"), "precision");
          Verify.equal(2, result.getInt("DECIMAL_DIGITS"), "scale");
        }
      }
      Verify.equal(types.size(), rows, "columns");
    }
  }

  private static void remarks(Connection connection) throws SQLException {
    Verify.equal(
        List.of("carrier|Two-letter carrier code", "name|Full name"),
        Verify.rows(
            connection.getMetaData().getColumns("lake", "nyc", "airlines", "%"),
            "COLUMN_NAME",
            "REMARKS"),
        "remarks");
  }

  private static void primaryKeys(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(
        List.of("time_hour|1|flights_pkey", "carrier|2|flights_pkey", "flight|3|flights_pkey"),
        Verify.rows(
            metadata.getPrimaryKeys("lake", "nyc", "flights"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"),
        "key of flights");
    Verify.equal(
        List.of("lake|nyc|airports|faa"),
        Verify.rows(
            metadata.getPrimaryKeys(null, "nyc", "airports"),
            "TABLE_CAT",
            "TABLE_SCHEM",
            "TABLE_NAME",
            "COLUMN_NAME"),
        "key of airports");
  }

  private static void importedKeys(Connection connection) throws SQLException {
    List<String> found =
        Verify.rows(connection.getMetaData().getImportedKeys("lake", "nyc", "flights"), KEYS);
    Verify.equal(6, found.size(), "rows");
    Verify.equal(
        "lake|nyc|airlines|carrier|nyc|flights|carrier|1|carrier_airlines|airlines_pkey|3|3",
        found.get(0),
        "first");
    Verify.equal(
        List.of("origin|1", "time_hour|2"),
        Verify.rows(
                connection.getMetaData().getImportedKeys("lake", "nyc", "flights"),
                "FKCOLUMN_NAME",
                "KEY_SEQ",
                "PKTABLE_NAME")
            .stream()
            .filter(row -> row.endsWith("|weather"))
            .map(row -> row.replace("|weather", ""))
            .toList(),
        "key of two columns");
  }

  private static void exportedKeys(Connection connection) throws SQLException {
    Verify.equal(
        List.of("flights|dest|faa", "flights|origin|faa", "weather|origin|faa"),
        Verify.rows(
            connection.getMetaData().getExportedKeys("lake", "nyc", "airports"),
            "FKTABLE_NAME",
            "FKCOLUMN_NAME",
            "PKCOLUMN_NAME"),
        "references to airports");
  }

  private static void crossReference(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(
        List.of(
            "lake|nyc|airlines|carrier|nyc|flights|carrier|1|carrier_airlines|airlines_pkey|3|3"),
        Verify.rows(
            metadata.getCrossReference("lake", "nyc", "airlines", "lake", "nyc", "flights"), KEYS),
        "flights to airlines");
    Verify.equal(
        List.of(),
        Verify.rows(
            metadata.getCrossReference("lake", "nyc", "flights", "lake", "nyc", "airlines"), KEYS),
        "airlines to flights");
  }

  private static void noKeys(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(
        List.of(),
        Verify.rows(metadata.getPrimaryKeys("lake", "nyc", "nowhere"), "PK_NAME"),
        "primary");
    Verify.equal(
        List.of(),
        Verify.rows(metadata.getImportedKeys("lake", "nyc", "nowhere"), "FK_NAME"),
        "imported");
    Verify.equal(
        List.of(),
        Verify.rows(metadata.getExportedKeys("lake", "nyc", "flights"), "FK_NAME"),
        "exported");
    Verify.equal(
        List.of(),
        Verify.rows(metadata.getImportedKeys("lake", "nyc", "airlines"), "FK_NAME"),
        "none");
  }

  private static List<String> names(
      Connection connection, String catalog, String schema, String table, String... types)
      throws SQLException {
    String[] wanted = types.length == 0 ? null : types;
    return Verify.rows(
        connection.getMetaData().getTables(catalog, schema, table, wanted), "TABLE_NAME");
  }
}
