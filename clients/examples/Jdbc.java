import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

/**
 * JDBC, as any Java program uses it.
 *
 * <p>Driver: org.apache.arrow:flight-sql-jdbc-driver (Maven Central; {@code make jdbc} puts it into build/jdbc).
 *
 * <pre>
 * java --add-opens=java.base/java.nio=ALL-UNNAMED -cp build/jdbc/flight-sql-jdbc-driver-18.3.0.jar \
 *   clients/examples/Jdbc.java jdbc:arrow-flight-sql://127.0.0.1:31337
 * </pre>
 */
public final class Jdbc {
    public static void main(String[] arguments) throws SQLException {
        String url = arguments.length > 0 ? arguments[0] : "jdbc:arrow-flight-sql://127.0.0.1:31337";
        Properties properties = new Properties();
        properties.put("useEncryption", "false"); // the driver's default is TLS
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            try (ResultSet tables = connection.getMetaData().getTables(null, "nyc", "%", null)) {
                while (tables.next()) {
                    System.out.println(tables.getString("TABLE_SCHEM") + "." + tables.getString("TABLE_NAME"));
                }
            }
            String query =
                "SELECT dest, count(*) AS flights FROM nyc.flights WHERE carrier = ? AND distance > ? "
                    + "GROUP BY dest ORDER BY flights DESC, dest LIMIT 3";
            try (PreparedStatement statement = connection.prepareStatement(query)) {
                statement.setString(1, "UA");
                statement.setInt(2, 2000);
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        System.out.println(rows.getString("dest") + " " + rows.getLong("flights"));
                    }
                }
            }
        }
    }
}
