import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;

/** Searches a vector index with values written out and with values bound; prints what it finds. */
final class VectorSearch {

  private VectorSearch() {}

  public static void main(String[] arguments) throws Exception {
    try (Connection connection = DriverManager.getConnection(arguments[0]);
        Statement statement = connection.createStatement()) {
      String sql =
          "SELECT v.rank, d.topic FROM vector_search('notes', %s, %s) v"
              + " JOIN docs.notes d ON d.id = v.id ORDER BY v.rank";
      try (ResultSet rows =
          statement.executeQuery(String.format(sql, "'commit or roll back'", "1"))) {
        print("written", rows);
      }
      try (PreparedStatement prepared =
          connection.prepareStatement(String.format(sql, "?", "?"))) {
        System.out.println("columns " + prepared.getMetaData().getColumnCount());
        for (String text : new String[] {"commit or roll back", "to bake bread"}) {
          prepared.setString(1, text);
          prepared.setLong(2, 1);
          try (ResultSet rows = prepared.executeQuery()) {
            print("bound", rows);
          }
        }
      }
      try (PreparedStatement prepared =
          connection.prepareStatement(
              "SELECT id FROM vector_search('points', ?::VARCHAR::FLOAT[], 1)")) {
        prepared.setString(1, "[1, 1, 1, 1, 1, 1, 1, 1]");
        try (ResultSet rows = prepared.executeQuery()) {
          rows.next();
          System.out.println("vector " + rows.getLong(1));
        }
      }
    }
  }

  private static void print(String how, ResultSet rows) throws Exception {
    while (rows.next()) {
      System.out.println(how + " " + rows.getInt("rank") + " " + rows.getString("topic"));
    }
  }
}
