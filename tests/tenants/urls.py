from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL")
        return HttpResponse(str(cursor.fetchone()[0]))


urlpatterns = [path("query/", query)]
