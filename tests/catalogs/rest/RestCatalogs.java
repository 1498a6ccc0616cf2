import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Iceberg's own implementation of the REST catalog, as one service of many catalogs: /NAME/v1/... is a
 * catalog whose tables are in the directory NAME of the directory that is given.
 *
 * <p>That implementation looks at what a change needs and then makes it, in two steps, and changes the tables
 * of a transaction one after the other. The specification wants one step, so changes wait for each other here.
 */
public final class RestCatalogs extends HttpServlet {
  private static final long serialVersionUID = 1L;
  private final String directory;
  private final transient Map<String, RESTCatalogServlet> catalogs = new ConcurrentHashMap<>();

  private RestCatalogs(String directory) {
    this.directory = directory;
  }

  /** Serves on a free port of this machine, says on which, and ends with its standard input. */
  public static void main(String[] args) throws Exception {
    Server server = new Server();
    ServerConnector connector = new ServerConnector(server);
    connector.setHost("127.0.0.1");
    server.addConnector(connector);
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new RestCatalogs(args[0])), "/*");
    server.setHandler(context);
    server.start();
    System.out.println(connector.getLocalPort());
    while (System.in.read() >= 0) {}
    System.exit(0);
  }

  @Override
  public void service(HttpServletRequest request, HttpServletResponse response)
      throws IOException, ServletException {
    String[] path = request.getRequestURI().split("/", 3);
    HttpServletRequest inner =
        new HttpServletRequestWrapper(request) {
          @Override
          public String getRequestURI() {
            return "/" + path[2];
          }
        };
    RESTCatalogServlet catalog = catalogs.computeIfAbsent(path[1], this::open);
    if (request.getMethod().equals("GET") || request.getMethod().equals("HEAD")) {
      catalog.service(inner, response);
      return;
    }
    synchronized (catalog) {
      catalog.service(inner, response);
    }
  }

  private RESTCatalogServlet open(String name) {
    Map<String, String> properties =
        Map.of(
            "catalog-impl", JdbcCatalog.class.getName(),
            "uri", "jdbc:sqlite:file:" + name + "?mode=memory&cache=shared",
            "clients", "1",
            "jdbc.schema-version", "V1",
            "io-impl", "org.apache.iceberg.hadoop.HadoopFileIO",
            "warehouse", "file://" + directory + "/" + name);
    return new RESTCatalogServlet(
        new RESTCatalogAdapter(
            CatalogUtil.buildIcebergCatalog(name, properties, new Configuration())));
  }
}
